"""The few names of the project that the net holds on to, wherever they live now."""

from importlib import import_module
from typing import Any


def found(name: str, *modules: str) -> Any:
    """The object of that name in the first of ``modules`` that has it."""
    for module in modules:
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError):
            continue
    raise ImportError(f"No {name} in {', '.join(modules)}; add where it went to {__file__}.")


RunConfig = found("RunConfig", "kdlib.runs", "kdlib")
run_directory = found("run_directory", "kdlib.runs", "kdlib")
fit = found("fit", "kdlib.train", "kdlib")
create_model = found("create_model", "kdlib.models", "kdlib")
load_data = found("load_data", "kdlib.data", "kdlib")

OF_PROFILES = ("kdlib.profiles", "study.profiles", "study.jobs", "study", "kdlib")
expand = found("expand", *OF_PROFILES)
earlier = found("earlier", *OF_PROFILES)
profile_names = found("profile_names", *OF_PROFILES)
read_profile = found("read_profile", *OF_PROFILES)
