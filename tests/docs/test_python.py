"""The pages on Python: every public name stands there, with what it returns, and every name there exists."""

import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import voxfield


@pytest.fixture(scope="module")
def documented(repository: Path) -> dict[str, Any]:
    found = {}
    for page in (repository / "docs").rglob("*.md"):
        for name in re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            parts = name.split(".")
            for end in range(len(parts), 0, -1):
                try:
                    value: Any = importlib.import_module(".".join(parts[:end]))
                except ModuleNotFoundError:
                    continue
                for part in parts[end:]:
                    value = getattr(value, part)
                found[name] = value
                break
    return found


def is_documented(value: Any, documented: dict[str, Any]) -> bool:
    return any(value is shown for shown in documented.values())


def classes_in(hint: Any) -> Iterator[type]:
    """Voxfield's classes that an annotation is made of."""
    if isinstance(hint, type) and hint.__module__.startswith("voxfield"):
        yield hint
    for part in typing.get_args(hint):
        yield from classes_in(part)


def returned_by(call: Any) -> set[type]:
    hints = typing.get_type_hints(call, localns={"Run": voxfield.Run})
    return set(classes_in(hints.get("return")))


def test_every_public_name_is_documented(documented: dict[str, Any]) -> None:
    names = [name for name in voxfield.__all__ if name != "__version__"]
    assert [name for name in names if not is_documented(getattr(voxfield, name), documented)] == []


def test_what_public_calls_return_is_documented(documented: dict[str, Any]) -> None:
    absent = set()
    for name in voxfield.__all__:
        value = getattr(voxfield, name)
        if isinstance(value, types.FunctionType):
            returned = returned_by(value)
        elif inspect.isclass(value):
            public = [one for part, one in inspect.getmembers(value, inspect.isfunction) if not part.startswith("_")]
            returned = {one for call in public if call.__module__.startswith("voxfield") for one in returned_by(call)}
        else:
            continue
        absent |= {
            f"{name}: {one.__module__}.{one.__qualname__}" for one in returned if not is_documented(one, documented)
        }
    assert sorted(absent) == []


def test_documented_names_exist(documented: dict[str, Any], repository: Path) -> None:
    assert len(documented) > 60
    pages = "".join(page.read_text(encoding="utf-8") for page in (repository / "docs").rglob("*.md"))
    assert set(re.findall(r"^::: (\S+)$", pages, re.MULTILINE)) == set(documented)


def test_nothing_is_shown_twice(repository: Path) -> None:
    names = re.findall(r"^::: (\S+)$", (repository / "docs/python.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(names) == len(set(names))


def test_public_functions_say_what_goes_in_and_comes_out() -> None:
    silent = []
    for name in voxfield.__all__:
        value = getattr(voxfield, name)
        if not isinstance(value, types.FunctionType):
            continue
        said = inspect.getdoc(value) or ""
        arguments = [one for one in inspect.signature(value).parameters if one != "quiet"]
        # Calls whose arguments are another's say whose.
        unsaid = [one for one in arguments if not re.search(rf"\b{one}\b", said)] if "Args:" in said else []
        if unsaid or ("Args:" not in said and "Arguments and errors as" not in said):
            silent.append(f"{name}: {unsaid}")
    assert silent == []
