"""The wheel trains where only the declared packages are; what other files say of it is so."""

import ast
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.metadata import packages_distributions as distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from training import TINY

from kdlib import __version__ as version
from kdlib.data.scenes import ATLAS
from kdlib.errors import KdlibError
from study import of_clone

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
ROOMS = {
    "kdlib": ("photographs", "yaml", "distributed"), "kdlib/detection": ("detection",),
    "kdlib/srm": ("srm",), "kdlib/frskd": ("photographs",), "study": ("study",),
    "study/notebooks.py": ("study", "notebooks"), "study/export.py": ("study", "export"),
}  # fmt: skip
"""The extras that a room's imports come from, beside the core's dependencies."""
WITH_OTHERS = {"filelock", "pydantic-core"}  # which torch and pydantic bring


def named(extra):
    """Names of an extra's packages, those of the extras that it takes in too."""
    for requirement in map(Requirement, EXTRAS[extra]):
        if requirement.name == "kdlib":
            yield from (name for other in requirement.extras for name in named(other))
        else:
            yield requirement.name.lower()


def imports(path):
    """Top-level names of all modules that a file imports, in its functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


def test_each_room_imports_what_its_extra_declares():
    core = {Requirement(text).name for text in PROJECT["dependencies"]} | WITH_OTHERS
    packages, ours = distributions(), {"kdlib", "study", *sys.stdlib_module_names}
    for path in (path for top in ("kdlib", "study") for path in (ROOT / top).rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        room = max((room for room in ROOMS if place.startswith(room)), key=len)
        declared = core | {name for extra in ROOMS[room] for name in named(extra)}
        for module in set(imports(path)) - ours:
            found = {name.lower().replace("_", "-") for name in packages[module]}
            assert found & declared, f"{path} imports {module} of {found}"


def with_needs(names, seen=None):
    """The installed distributions of some names, and all that these require."""
    seen = {} if seen is None else seen
    for name in names:
        try:
            found = distribution(name)
        except PackageNotFoundError:  # of a GPU's build of PyTorch, say
            continue
        if found.name not in seen:
            seen[found.name] = found
            needs = map(Requirement, found.requires or ())
            met = [n.name for n in needs if n.marker is None or n.marker.evaluate({"extra": ""})]
            with_needs(met, seen)
    return seen


def link(found: Distribution, site):
    """Let a distribution be imported from ``site``."""
    tops = {Path(str(file)).parts[0] for file in found.files or () if ".." not in str(file)}
    for top in tops:
        if not (site / top).exists():
            (site / top).symlink_to(Path(str(found.locate_file(top))))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of packages: the wheel, its declared dependencies, and what these require."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("kdlib-*.whl")
    site = folder / "site"
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(site)
    needed = [Requirement(text).name for text in PROJECT["dependencies"]]
    for found in with_needs(needed).values():
        link(found, site)
    assert not (site / "pandas").exists() and not (site / "yaml").exists()
    return site


def run(site, code, folder):
    """Run code that can import nothing but the standard library and what is in ``site``."""
    program = f"import sys; sys.path.insert(0, {str(site)!r})\n{code}"
    words = [sys.executable, "-I", "-S", "-c", program]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True)


def test_the_wheel_trains_a_dct_student_and_its_teacher_without_the_repository(site, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({**TINY, "method": "dct", "epochs": 1}))
    (tmp_path / "run.yaml").write_text("method: dct")
    command = "from kdlib.launch import main\nsys.exit(main(['--config', {!r}, '--no-progress']))"
    done = run(site, command.format("run.json"), tmp_path)
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/record.json")]
    assert [one["provenance"]["commit"] for one in records] == [None, None]
    assert {one["config"]["method"] for one in records} == {"student", "dct"}
    refused = run(site, command.format("run.yaml"), tmp_path)
    assert refused.returncode == 2
    assert "pip install pyyaml" in refused.stderr
    done = run(site, "import kdlib\nprint(kdlib.pretrained('scenes/teacher').training)", tmp_path)
    assert done.stdout == "False\n", done.stderr


def test_the_scripts_of_a_loop_of_one_s_own_run_beside_the_wheel(site, tmp_path):
    for found in with_needs(["timm"]).values():
        link(found, tmp_path)
    page = (ROOT / "docs/your_own_loop.md").read_text(encoding="utf-8")
    for script in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        done = run(site, f"sys.path.append({str(tmp_path)!r})\n{script}", tmp_path)
        assert len(script.split("\n")) <= 20 and re.search(r"\d\.\d", done.stdout), done.stderr


def test_the_command_names_what_it_lacks_and_the_metadata_says_what_it_is(site, tmp_path):
    done = run(site, "from study.__main__ import main\nsys.exit(main())", tmp_path)
    assert done.returncode == 2
    assert "kdlib[study]" in done.stderr and "Traceback" not in done.stderr
    with pytest.raises(KdlibError, match=r"There is no profiles/ .* Clone"):
        of_clone(tmp_path / "profiles")
    (metadata,) = site.glob("kdlib-*.dist-info/METADATA")
    text = metadata.read_text(encoding="utf-8")
    assert "Description-Content-Type: text/markdown" in text and "# kdlib" in text
    assert all((site / name / "py.typed").exists() for name in ("kdlib", "study"))
    assert "MIT License" in (site / ATLAS.relative_to(ROOT)).with_name("LICENSE").read_text()


def test_versions_are_the_same_wherever_they_are_written():
    parsed = "CITATION.cff", ".pre-commit-config.yaml", ".github/workflows/test.yml"
    others = "README.md", "Makefile", "requirements/lock.txt"
    texts = [(ROOT / name).read_text("utf-8") for name in (*parsed, *others)]
    citation, hooks, workflow = map(yaml.safe_load, texts[:3])
    readme, makefile, lock = texts[3:]
    assert citation["version"] == version and f"version = {{{version}}}" in readme
    pythons = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert pythons == re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    first, last = (int(python.removeprefix("3.")) for python in (pythons[0], pythons[-1]))
    assert PROJECT["requires-python"] == f">=3.{first},<3.{last + 1}"
    assert f"(3, {first}) <= sys.version_info[:2] <= (3, {last})" in makefile
    assert f"\nruff=={hooks['repos'][0]['rev'].removeprefix('v')} " in lock
