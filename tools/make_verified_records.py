"""Makes the small runs that the tests verify, and seals their records there.

    python tools/make_verified_records.py

Run it when a revision was raised, which supersedes them.
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from kdlib.runs import RunConfig, earlier
from kdlib.train import fit
from study.export import limited_threads
from study.records import publish

SEALED = Path(__file__).parents[1] / "tests" / "verify" / "sealed"
SMALL = {"train_size": 256, "test_size": 64, "batch_size": 32, "epochs": 2, "teacher_epochs": 1}
RUNS = (
    RunConfig(
        **SMALL, method="at+kd", precision="bfloat16", teacher="scenes_student",
        student="scenes_tiny", weight=100.0,
    ),
    RunConfig(
        **{**SMALL, "train_size": 64}, method="kd_cls", task="detection", teacher="scenes_tiny",
        student="scenes_ssd_tiny", crop_size=16, learning_rate=0.02, gradient_clip=10.0,
    ),
)  # fmt: skip


def main() -> None:
    """Train them on one thread, and seal what they leave."""
    with TemporaryDirectory() as folder, limited_threads(1):
        for run in [*earlier(RUNS), *RUNS]:
            fit(run, Path(folder), device="cpu")
        shutil.rmtree(SEALED, ignore_errors=True)
        publish(Path(folder), SEALED, [run.run_id for run in RUNS])


if __name__ == "__main__":
    main()
