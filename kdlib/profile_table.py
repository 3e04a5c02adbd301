"""The profiles as a table: what each of them runs."""

from kdlib.markdown import markdown_table
from kdlib.profiles import profile_names, read_profile


def profiles_markdown() -> str:
    """A row a profile: its name and what its file says of it."""
    return markdown_table(["PROFILE", "runs"], [_row(name) for name in profile_names()])


def _row(name: str) -> list[str]:
    return [f"[`{name}`](profiles/{name}.yaml)", " ".join(read_profile(name)["about"].split())]
