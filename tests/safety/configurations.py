"""Every configuration of every profile with its hash: nothing may train another run than before.

    python tests/safety/configurations.py OUT.txt

A line for each profile on each of its data sets, with the number of its runs and the SHA-256 of
their names and hashes, and then all names, so that one sees which run is another.
"""

import hashlib
import sys
from pathlib import Path

from kdlib.runs import earlier
from study.profiles import expand, profile_names, read_profile


def datasets_of(name: str) -> list[str]:
    """The data sets that a profile names, and Scenes, which every profile can run on."""
    profile = read_profile(name)
    others = [dataset for other in profile.get("also", []) for dataset in other["datasets"]]
    return sorted({"scenes", *profile.get("datasets", {}), *others})


def lines() -> list[str]:
    """What is compared, and what tells where it differs."""
    summaries, names = [], set[str]()
    for profile, dataset in ((p, d) for p in profile_names() for d in datasets_of(p)):
        runs = expand(profile, dataset)
        hashes = {run.run_id: run.config_hash for run in [*runs, *earlier(runs)]}
        listed = "\n".join(f"{name} {digest}" for name, digest in sorted(hashes.items()))
        sha = hashlib.sha256(listed.encode()).hexdigest()
        summaries.append(f"{profile} {dataset} {len(hashes)} {sha}")
        names |= set(hashes)
    return [*summaries, *sorted(names)]


if __name__ == "__main__":
    Path(sys.argv[1]).write_text("\n".join(lines()) + "\n", encoding="utf-8")
