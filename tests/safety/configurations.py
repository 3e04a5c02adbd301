"""Every configuration of every profile with its hash: nothing may train another run than before.

    python tests/safety/configurations.py OUT.json     profile -> data set -> run -> hash
    python tests/safety/configurations.py OUT.txt      the same, as it is kept here

The text has a line for each profile on each of its data sets, with the number of its runs and the
SHA-256 of their names and hashes, and then all names, so that one sees which run is another.
"""

import hashlib
import json
import sys
from pathlib import Path

from names import earlier, expand, profile_names, read_profile

Found = dict[str, dict[str, dict[str, str]]]


def datasets_of(name: str) -> list[str]:
    """The data sets that a profile names, and Scenes, which every profile can run on."""
    profile = read_profile(name)
    others = [dataset for other in profile.get("also", []) for dataset in other["datasets"]]
    return sorted({"scenes", *profile.get("datasets", {}), *others})


def hashes(profile: str, dataset: str) -> dict[str, str]:
    """The hash of every run of a profile, and of all that these need first."""
    runs = expand(profile, dataset)
    return {run.run_id: run.config_hash for run in [*runs, *earlier(runs)]}


def configurations() -> Found:
    """Of every profile, on every data set of its, the hash of every run."""
    return {name: {d: hashes(name, d) for d in datasets_of(name)} for name in profile_names()}


def as_text(found: Found) -> str:
    """What is compared, and what tells where it differs."""
    lines, names = [], set()
    for profile, by_dataset in found.items():
        for dataset, runs in by_dataset.items():
            told = "\n".join(f"{name} {digest}" for name, digest in sorted(runs.items()))
            sha = hashlib.sha256(told.encode()).hexdigest()
            lines.append(f"{profile} {dataset} {len(runs)} {sha}")
            names |= set(runs)
    return "\n".join([*lines, *sorted(names)]) + "\n"


def main() -> None:
    """Write the file that is asked for."""
    out, found = Path(sys.argv[1]), configurations()
    text = as_text(found) if out.suffix == ".txt" else json.dumps(found, indent=1, sort_keys=True)
    out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
