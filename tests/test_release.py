"""What is handed out: the packages' contents, and the papers that go with them."""

import os
import re
import site as site_module
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import voxfield


@pytest.fixture(scope="module")
def project(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    from hatchling.builders.wheel import WheelBuilder

    folder = tmp_path_factory.mktemp("wheel")
    built = next(iter(WheelBuilder(str(repository)).build(directory=str(folder), versions=["standard"])))
    return zipfile.ZipFile(built)


@pytest.fixture(scope="module")
def sdist(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    from hatchling.builders.sdist import SdistBuilder

    folder = tmp_path_factory.mktemp("sdist")
    built = next(iter(SdistBuilder(str(repository)).build(directory=str(folder))))
    with tarfile.open(built) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile, repository: Path) -> None:
    names = set(wheel.namelist())
    about = f"voxfield-{voxfield.__version__}.dist-info/"
    package = {name for name in names if not name.startswith(about)}
    source = repository / "src"
    expected = {
        path.relative_to(source).as_posix()
        for path in (source / "voxfield").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert package == expected
    assert "voxfield/py.typed" in package
    assert {f"{about}licenses/LICENSE", f"{about}licenses/THIRD_PARTY.md", f"{about}entry_points.txt"} <= names
    assert not [name for name in names if re.search(r"(^|/)(tests?|examples|scenes|runs)/", name)]


def test_the_wheel_asks_for_what_the_project_needs(wheel: zipfile.ZipFile, project: dict) -> None:
    about = wheel.read(f"voxfield-{voxfield.__version__}.dist-info/METADATA").decode()
    asked = {Requirement(line.partition(": ")[2]) for line in about.splitlines() if line.startswith("Requires-Dist")}
    always = {str(one) for one in asked if one.marker is None}
    assert always == {str(Requirement(text)) for text in project["dependencies"]}
    assert "Requires-Python: >=3.11" in about
    assert "License-Expression: Apache-2.0" in about
    assert "Project-URL: file" not in about


@pytest.mark.slow
@pytest.mark.timeout(900)  # a loaded machine compiles kernels slowly
def test_the_wheel_works_in_an_environment_of_its_own(
    wheel: zipfile.ZipFile, repository: Path, tmp_path: Path, tiny_capture: Path
) -> None:
    """Installed beside the packages of this environment, outside the repository, with none of its files in reach."""
    home = tmp_path / "fresh"
    venv.EnvBuilder(with_pip=False).create(home)
    scripts = home / ("Scripts" if sys.platform == "win32" else "bin")
    python = scripts / Path(sys.executable).name
    site = Path(
        subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    )
    wheel.extractall(site)
    # Its dependencies are this environment's; of an editable install only the link to the sources is left out.
    for folder in filter(Path.is_dir, map(Path, site_module.getsitepackages())):  # Debian names some that are not there
        for entry in folder.iterdir():
            if not re.match(r"(_?_?editable|voxfield|.*\.pth$)", entry.name) and not (site / entry.name).exists():
                (site / entry.name).symlink_to(entry)
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}

    def said(*words: str) -> str:
        done = subprocess.run([python, *words], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert Path(said("-c", "import voxfield; print(voxfield.__file__)").strip()).is_relative_to(site)
    assert f"Voxfield {voxfield.__version__}" in said("-m", "voxfield", "--help")
    assert not said("-c", "from voxfield.cli import doctor; from voxfield.jobs.doctor import examine").strip()
    small = ("model.field.log2_table_size=8", "model.field.num_levels=2", "model.samples_per_batch=1024")
    settings = [word for one in small for word in ("--set", one)]
    common = ("--steps", "3", "--device", "cpu", "--quiet", "--output", "run")
    said("-m", "voxfield", "train", "grid-ngp", str(tiny_capture), *common, *settings)
    assert list((tmp_path / "run/checkpoints").glob("*.pt"))
    assert "grid-ngp" in said("-m", "voxfield", "info", "run")


def test_the_source_archive_can_build_and_test_itself(sdist: set[str]) -> None:
    assert {
        "pyproject.toml",
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "CITATION.cff",
        "SECURITY.md",
        "THIRD_PARTY.md",
        "Makefile",
        "constraints-floor.txt",
        "constraints.txt",
        "mkdocs.yml",
        "src/voxfield/py.typed",
        "tests/conftest.py",
        "docs/index.md",
        "benchmarks/run.py",
        "examples/scenes/workbench/transforms_train.json",
    } <= sdist
    unwanted = re.compile(r"(^|/)(__pycache__|\.venv|runs|site|dist|\.git)(/|$)")
    assert not [name for name in sdist if unwanted.search(name)]


def test_the_citation_is_of_this_version(repository: Path, project: dict) -> None:
    citation = yaml.safe_load((repository / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == voxfield.__version__
    assert citation["license"] == project["license"]
    assert citation["title"] == "Voxfield"
    assert citation["abstract"] == project["description"]


def test_every_dependency_has_its_licence_listed(repository: Path, project: dict) -> None:
    page = (repository / "THIRD_PARTY.md").read_text(encoding="utf-8")
    always, _, rest = page.partition("## By extra")
    rows = re.findall(r"^\| `([\w-]+)` \| ([\w-]+)(?: \(by [^|]*)? \| ([^|]+) \|", rest, re.MULTILINE)
    listed = {(extra, name) for extra, name, _ in rows}
    core = set(re.findall(r"^\| ([\w-]+) \| [A-Z][^|]+ \|", always, re.MULTILINE)) - {"package"}
    assert core == {Requirement(text).name for text in project["dependencies"]}
    wanted = set()
    for extra, requirements in project["optional-dependencies"].items():
        for requirement in map(Requirement, requirements):
            if requirement.name != "voxfield":
                wanted.add((extra, requirement.name))
                # Extras of a package bring the one that they are for.
                wanted |= {(extra, brought) for brought in requirement.extras if brought in {"distributed", "lazrs"}}
    # Named by what it is for already.
    wanted.discard(("dev", "psutil"))
    assert listed == wanted
    assert all(licence.strip() for _, _, licence in rows)
    assert "GPL" not in "".join(licence for _, _, licence in rows)


def test_the_floors_are_those_that_the_project_declares(repository: Path, project: dict) -> None:
    lines = (repository / "constraints-floor.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    declared: dict[str, Version] = {}
    extras = project["optional-dependencies"]
    listed = [
        *project["dependencies"],
        *(one for name in extras if name not in ("dev", "docs") for one in extras[name]),
    ]
    for requirement in map(Requirement, listed):
        floors = [Version(one.version) for one in requirement.specifier if one.operator == ">="]
        if floors:
            declared[requirement.name.lower()] = floors[0]
    assert {name: Version(version) for name, version in pinned.items()} == declared


def test_security_policy_says_how_to_report(repository: Path) -> None:
    page = (repository / "SECURITY.md").read_text(encoding="utf-8")
    assert "## Reporting" in page
    assert "privately" in page
