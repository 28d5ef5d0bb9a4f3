"""Promises the repository makes as a whole."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import voxfield

SUFFIXES = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".json", ".cfg", ".html", ".css", ".sh", ".jsonl", ""}


def source_files(repository: Path) -> list[Path]:
    """What belongs to the repository: what git tracks or would, or everything visible where there is no git."""
    listing = subprocess.run(
        ["git", "-C", str(repository), "ls-files", "-co", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode == 0 and listing.stdout:
        files = [repository / line for line in listing.stdout.splitlines()]
    else:
        hidden = {".venv", "runs", "site", "build", "dist", "__pycache__", ".git"}
        files = [path for path in repository.rglob("*") if not hidden & set(path.relative_to(repository).parts)]
    return [path for path in files if path.is_file() and path.suffix in SUFFIXES]


@pytest.fixture(scope="session")
def settings(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))


def test_no_paths_of_one_machine(repository: Path) -> None:
    # Joined here so that this file does not hold what it looks for.
    folders = "|".join(["ho" + "me", "ro" + "ot", "Us" + "ers", "wo" + "rk", "mn" + "t", "o" + "pt"])
    leaked = re.compile(rf"(?<![\w./~<:$}}\-])/(?:{folders})/\w|[A-Z]:\\\\?Users\\|file:/{{2,3}}\w|pypi\.[\w.]+/simple")
    found = []
    for path in source_files(repository):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if leaked.search(line):
                found.append(f"{path.relative_to(repository)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


def test_files_stay_readable(repository: Path) -> None:
    # The aim is 500 lines; a little more is no reason to split a thought.
    long = {
        str(path.relative_to(repository)): lines
        for path in (repository / "src").rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 600
    }
    assert not long


def test_names_say_what_a_module_is_about(repository: Path) -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "tools", "core"}
    assert not [path for path in (repository / "src").rglob("*") if path.stem in vague]


def test_importing_voxfield_loads_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "numba", "triton", "tyro", "rich", "PIL")
    code = f"import sys, voxfield; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names() -> None:
    assert set(voxfield.__all__) <= set(dir(voxfield))
    for name in voxfield.__all__:
        assert getattr(voxfield, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = voxfield.trian  # type: ignore[attr-defined]


def test_version_has_a_changelog_entry(repository: Path) -> None:
    first = re.search(r"^## \[?([\w.]+)", (repository / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert first is not None
    assert first.group(1) in {"Unreleased", voxfield.__version__}


def test_package_is_typed_and_licensed(repository: Path) -> None:
    assert (Path(voxfield.__file__).parent / "py.typed").is_file()
    assert "Apache License" in (repository / "LICENSE").read_text(encoding="utf-8")[:200]


def test_constraints_satisfy_the_lower_bounds(repository: Path, settings: dict) -> None:
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    names = {name.lower().replace("_", "-"): Version(version) for name, version in pinned.items()}
    project = settings["project"]
    extras = project["optional-dependencies"]
    for text in (
        project["dependencies"]
        + extras["dev"]
        + extras["docs"]
        + extras["video"]
        + extras["tensorboard"]
        + extras["remote"]
    ):
        requirement = Requirement(text)
        if requirement.name in {"voxfield", "triton"}:  # ourselves; torch's builds bring their own triton
            continue
        assert names[requirement.name.lower()] in requirement.specifier, text
    assert names["rich"] < Version("15"), "the viewer extra needs rich below 15"


def test_requirements_have_no_upper_bounds() -> None:
    for text in requires("voxfield") or []:
        assert not {"<", "==", "~="} & {one.operator for one in Requirement(text).specifier}, text


def test_architecture_page_shows_the_enforced_layers(repository: Path, settings: dict) -> None:
    contract = next(one for one in settings["tool"]["importlinter"]["contracts"] if one["id"] == "layers")
    page = (repository / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = re.search(r"```text\n(__main__ .*?)```", page, re.DOTALL)
    assert block is not None
    shown = [re.split(r"\s{2,}", line)[0].strip() for line in block.group(1).strip().splitlines()]
    assert shown == contract["layers"]


def test_ignored_rules_carry_their_reason(repository: Path) -> None:
    text = (repository / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^ignore = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert block is not None
    assert all(re.match(r'\s+"\w+",\s+# \S', line) for line in block.group(1).splitlines())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no executable bit")
def test_continuous_integration_calls_make_test(repository: Path) -> None:
    script = repository / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text(encoding="utf-8")


def test_modules_open_with_what_they_are_about(repository: Path) -> None:
    silent = [
        str(path.relative_to(repository))
        for path in (repository / "src").rglob("*.py")
        if path.name != "__init__.py" and ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) is None
    ]
    assert not silent


NAMES_DEVICES = {"distributed/devices.py", "distributed/ranks.py", "kernels/dispatch.py"}
"""Where accelerators may be told apart: everything else asks these."""


def named_devices(source: str) -> list[int]:
    """Lines that name an accelerator in code: ``"cuda:1"``, ``torch.cuda``, ``tensor.is_xpu``; text about them may."""
    name = re.compile(r"(cuda|xpu|mps|hip)(:\d*)?")
    lines = []
    for node in ast.walk(ast.parse(source)):
        imported = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            imported.append(node.module or "")
        if (
            (isinstance(node, ast.Constant) and isinstance(node.value, str) and name.fullmatch(node.value))
            or (isinstance(node, ast.Attribute) and name.fullmatch(node.attr.removeprefix("is_")))
            or any(name.fullmatch(part) for one in imported for part in one.split("."))
        ):
            lines.append(node.lineno)
    return lines


def test_one_place_names_devices(repository: Path) -> None:
    package = repository / "src/voxfield"
    found = [
        f"{path.relative_to(package)}:{line}"
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).as_posix() not in NAMES_DEVICES
        for line in named_devices(path.read_text(encoding="utf-8"))
    ]
    assert not found, found


def test_names_of_devices_are_recognised() -> None:
    code = """
place("cuda:1")
place(f"cuda:{rank}")
torch.xpu.synchronize()
if rays.is_cuda: pass
if device.type in ("cpu", "mps"): pass
from torch import cuda
import torch.mps as metal
print("device: cuda, xpu or mps"); torch.accelerator.synchronize()
"""
    assert sorted(named_devices(code)) == [2, 3, 4, 5, 6, 7, 8]
    package = Path(voxfield.__file__).parent
    for path in NAMES_DEVICES:
        assert named_devices((package / path).read_text(encoding="utf-8"))


def test_durations_are_of_the_monotonic_clock(repository: Path) -> None:
    """The machine's clock may be set while a job runs: it dates things, and never measures."""
    found = []
    for path in sorted((repository / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and ast.unparse(called) in ("time.time", "time.time_ns"):
                found.append(f"{path.relative_to(repository)}:{node.lineno}")
            if isinstance(node, ast.ImportFrom) and node.module == "time":
                found += [f"{path.relative_to(repository)}:{node.lineno}"] * any(
                    one.name == "time" for one in node.names
                )
    assert not found


TWINS = 15
"""So many lines of the same logic in two places are one thought that is written twice."""


def logic(source: str) -> list[tuple[int, str]]:
    """The lines that compute, each with its number: no comments, docstrings, imports, decorators or signatures."""
    text = {number: line.strip() for number, line in enumerate(source.splitlines(), start=1)}
    for node in ast.walk(ast.parse(source)):
        said = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if said or isinstance(node, ast.Import | ast.ImportFrom):
            aside = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            aside = range(min([node.lineno, *(one.lineno for one in node.decorator_list)]), node.body[0].lineno)
        else:
            continue
        for number in aside:
            text.pop(number, None)
    return [(number, line) for number, line in text.items() if line and not line.startswith("#")]


def twins(sources: dict[str, str]) -> list[str]:
    """Places that hold the same `TWINS` lines of logic, each named once, where the sameness begins."""
    seen: dict[tuple[str, ...], tuple[str, int]] = {}
    found, last = [], ("", 0)
    for name, source in sources.items():
        lines = logic(source)
        for i in range(len(lines) - TWINS + 1):
            window = tuple(line for _, line in lines[i : i + TWINS])
            other, at = seen.setdefault(window, (name, lines[i][0]))
            if (other, at) != (name, lines[i][0]):
                if last != (name, i - 1):
                    found.append(f"{other}:{at} and {name}:{lines[i][0]}")
                last = (name, i)
    return found


def test_no_logic_is_written_twice(repository: Path) -> None:
    package = repository / "src/voxfield"
    sources = {
        path.relative_to(package).as_posix(): path.read_text(encoding="utf-8") for path in sorted(package.rglob("*.py"))
    }
    assert twins(sources) == []


def test_twins_are_recognised() -> None:
    body = "".join(f"    total += {i}\n" for i in range(TWINS))
    one = f'def one(\n    total,\n):\n    """Adds."""\n{body}    return total\n'
    other = f"import math\n\n\n@cache\ndef other(total, more):\n    # Adds.\n\n{body}    return more\n"
    assert twins({"one.py": one, "other.py": other}) == ["one.py:5 and other.py:8"]
    assert twins({"one.py": one, "other.py": other.replace("+= 7", "-= 7")}) == []
    header = "def f(\n" + "".join(f"    a{i}: int,\n" for i in range(20)) + ") -> int:\n    return 0\n"
    assert twins({"one.py": header, "other.py": header}) == []
