"""Settings: nested frozen dataclasses to and from plain values, text and files.

A component's configuration is a frozen keyword-only dataclass beside it; an experiment nests them. This module knows
none of those classes: it walks whatever dataclass *instance* it is given, whose values say which classes are nested and
whose annotations say what each field takes. Reading therefore always starts from a template (a recipe's defaults), and
never from a class name in a file.

A *path* names a setting with dots, ``model.field.log2_table_size``. *Plain values* are what JSON has: dictionaries
with text keys, lists, text, numbers, true, false and null; infinities are the text "inf" and "-inf".
"""

import dataclasses
import difflib
import math
import os
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from voxfield.errors import FormatError, InputError, MissingFileError

T = TypeVar("T")

_TRUE = ("true", "yes", "on")
_FALSE = ("false", "no", "off")
_NONE = ("none", "null", "~")


class _Text(str):
    """Text typed by a person, to be read as whatever the field takes (a YAML string stays a string)."""

    __slots__ = ()


def to_plain(value: Any) -> Any:
    """A dataclass instance, or anything a field of one may hold, as plain values.

    Raises:
        InputError: for NaN and for types that have no plain form.
    """
    if _is_instance(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, float):
        if math.isnan(value):
            raise InputError("Settings cannot hold NaN.")
        return value if math.isfinite(value) else str(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    raise InputError(f"Settings cannot hold a {type(value).__name__}: {value!r}.")


def replace_values(template: T, values: Mapping[str, Any], *, source: str = "settings", prefix: str = "") -> T:
    """A copy of ``template`` in which the settings named by ``values`` are replaced.

    Args:
        template: a dataclass instance.
        values: nested plain values, in the shape of ``to_plain(template)`` but as sparse as wished.
        source: where the values came from, for messages: a file name or "--set".
        prefix: path of ``template`` inside the whole, for messages.

    Returns:
        A new instance. All changes to one dataclass are made at once, so its own checks see the final combination.

    Raises:
        InputError: for an unknown name (the nearest ones are named) or a value the field does not take. Checks of
            the dataclass itself raise what they raise.
    """
    hints = typing.get_type_hints(type(template))
    current = {field.name: getattr(template, field.name) for field in dataclasses.fields(template)}  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        if name not in current:
            raise InputError(f"{source}: unknown setting {path!r}. {_nearest(name, template, prefix)}")
        held = current[name]
        if _is_instance(held) and not (_is_none(value) and type(None) in typing.get_args(hints[name])):
            if not isinstance(value, Mapping):
                example = f"{path}.{dataclasses.fields(held)[0].name}"
                raise InputError(f"{source}: {path} is a group of settings: name one of them, such as {example}.")
            changes[name] = replace_values(held, value, source=source, prefix=f"{path}.")
        else:
            try:
                changes[name] = _coerce(value, hints[name])
            except _MisfitError:
                shown = str(value) if isinstance(value, _Text) else repr(value)
                raise InputError(f"{source}: {path} takes {_describe(hints[name])}, got {shown}.") from None
    return dataclasses.replace(template, **changes)  # type: ignore[type-var]


def setting_paths(template: Any, prefix: str = "") -> list[str]:
    """Every settable path of ``template``, in the order of its fields."""
    paths = []
    for field in dataclasses.fields(template):
        held = getattr(template, field.name)
        if _is_instance(held):
            paths += setting_paths(held, f"{prefix}{field.name}.")
        else:
            paths.append(prefix + field.name)
    return paths


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """``["model.features=4", ...]`` as nested values for :func:`replace_values`; a later one wins.

    Raises:
        InputError: for an item that is not ``path=value``.
    """
    nested: dict[str, Any] = {}
    for item in overrides:
        path, equals, text = item.partition("=")
        if not equals or not path.strip():
            raise InputError(f"--set {item}: expected path=value, such as --set model.field.log2_table_size=17.")
        _insert(nested, path.strip(), _Text(text.strip()), f"--set {item}")
    return nested


def load_config_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML (or JSON) file of settings.

    The file nests (``model: {features: 4}``), or writes paths (``model.features: 4``), or mixes both. A run's
    ``experiment.json`` is such a file too: its ``values`` are taken.

    Returns:
        Nested values for :func:`replace_values`; empty for an empty file.

    Raises:
        MissingFileError: when there is no such file.
        FormatError: when it is not YAML, or not a mapping.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingFileError(f"--config {file}: there is no such file.") from None
    except (IsADirectoryError, PermissionError):
        raise MissingFileError(f"--config {file}: expected a readable YAML file of settings.") from None
    except UnicodeDecodeError:
        raise FormatError(f"--config {file}: expected YAML text, but the file is not UTF-8.") from None
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise FormatError(f"--config {file}{where}: not valid YAML ({getattr(error, 'problem', error)}).") from None
    if content is None:
        return {}
    if isinstance(content, dict) and "schema_version" in content:
        content = content.get("values")
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise FormatError(f"--config {file}: expected a mapping such as 'model: {{features: 4}}' at the top.")
    return _expand(content, str(file))


def _expand(content: Mapping[str, Any], source: str) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in content.items():
        textual = isinstance(value, Mapping) and all(isinstance(name, str) for name in value)
        _insert(nested, key, _expand(value, source) if textual else value, f"{source}: {key}")
    return nested


def _insert(nested: dict[str, Any], path: str, value: Any, source: str) -> None:
    """Put ``value`` at a dotted ``path``, joining mappings."""
    *groups, last = path.split(".")
    for group in groups:
        inner = nested.setdefault(group, {})
        if not isinstance(inner, dict):
            raise InputError(f"{source}: {group} is given a value elsewhere, so it cannot be a group of settings too.")
        nested = inner
    if isinstance(value, dict) and isinstance(nested.get(last), dict):
        for name, item in value.items():
            _insert(nested[last], name, item, source)
    else:
        nested[last] = value


def _nearest(name: str, template: Any, prefix: str) -> str:
    """The known settings nearest to an unknown one: here first, then anywhere below, else the list of this group."""
    here = [field.name for field in dataclasses.fields(template)]
    close = difflib.get_close_matches(name, here, n=2, cutoff=0.6)
    if not close:
        below = setting_paths(template)
        by_end = {path.rpartition(".")[2]: path for path in reversed(below)}
        close = [by_end[end] for end in difflib.get_close_matches(name, by_end, n=2, cutoff=0.6)]
    if close:
        return "Did you mean " + " or ".join(prefix + match for match in close) + "?"
    return "Known here: " + ", ".join(prefix + field for field in here) + "."


def _is_instance(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _is_none(value: Any) -> bool:
    return value is None or (isinstance(value, _Text) and value.lower() in _NONE)


class _MisfitError(Exception):
    """A value does not fit an annotation. Private: callers word the message with the setting's path."""


def _coerce(value: Any, annotation: Any) -> Any:
    """``value`` as what ``annotation`` says, or :class:`_MisfitError`. Nothing is rounded, cut or guessed."""
    origin = typing.get_origin(annotation)
    if annotation is Any:
        return _read_text(value) if isinstance(value, _Text) else value
    if origin in {typing.Union, types.UnionType}:
        return _coerce_union(value, typing.get_args(annotation))
    if origin is Literal:
        for choice in typing.get_args(annotation):
            # 1 == True in Python: compare types too, except that a person's text may stand for any choice.
            if (isinstance(value, _Text) and str(choice) == value) or (type(choice) is type(value) and choice == value):
                return choice
        raise _MisfitError
    if annotation is None or annotation is type(None):
        if _is_none(value):
            return None
        raise _MisfitError
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return _coerce_group(value, annotation)
    if origin in {tuple, list, dict}:
        return _coerce_collection(value, origin, typing.get_args(annotation))
    scalar = _SCALARS.get(annotation)
    if scalar is None:
        raise _MisfitError
    return scalar(value)


def _coerce_union(value: Any, members: tuple[Any, ...]) -> Any:
    # Text fits str whatever it says, so the other members get to try first.
    for member in sorted(members, key=lambda member: (member is str, member is float)):
        try:
            return _coerce(value, member)
        except _MisfitError:
            continue
    raise _MisfitError


def _coerce_group(value: Any, kind: type) -> Any:
    """A group of settings that is absent in the template: read onto the class's own defaults."""
    if isinstance(value, _Text):
        value = _read_text(value)
    if not isinstance(value, Mapping):
        raise _MisfitError
    try:
        template = kind()
    except TypeError:  # the class has fields without defaults, which only a template could fill
        raise _MisfitError from None
    return replace_values(template, value)


def _coerce_collection(value: Any, origin: Any, inner: tuple[Any, ...]) -> Any:
    if origin is dict and isinstance(value, _Text):
        value = _read_pairs(value)
    if isinstance(value, _Text):
        if value.startswith("("):  # as Python, and the tables of the documents, write tuples
            value = value.translate(str.maketrans("()", "[]"))
        value = _read_text(value)
        if isinstance(value, int | float) and inner[-1] is Ellipsis:  # --set capture.scales=4
            value = [value]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _MisfitError
        # Keys become text in JSON; read them back as a person's text would be.
        return {
            _coerce(_Text(key) if isinstance(key, str) else key, inner[0]): _coerce(item, inner[1])
            for key, item in value.items()
        }
    if isinstance(value, str) and "," in value:  # --set model.hidden=64,64
        value = [_Text(part.strip()) for part in value.split(",")]
    if not isinstance(value, list | tuple):
        raise _MisfitError
    if origin is list or (len(inner) == 2 and inner[1] is Ellipsis):
        return origin(_coerce(item, inner[0]) for item in value)
    if len(value) != len(inner):
        raise _MisfitError
    return tuple(_coerce(item, one) for item, one in zip(value, inner, strict=True))


def _read_pairs(text: _Text) -> Any:
    """``{0:8, 2000:4}``, the braces being optional, as a mapping; YAML takes 0:8 for a time of day."""
    pairs = [pair.split(":") for pair in text.removeprefix("{").removesuffix("}").split(",")]
    if any(len(pair) != 2 for pair in pairs):
        return text
    return {key.strip(): _Text(value.strip()) for key, value in pairs}


def _read_text(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return str(text)


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, _Text) and value.lower() in (*_TRUE, "1"):
        return True
    if isinstance(value, _Text) and value.lower() in (*_FALSE, "0"):
        return False
    raise _MisfitError


def _to_int(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            pass
    number = _to_float(value)  # 1e4 is a whole number too; YAML reads 1e4 as text
    if not number.is_integer():
        raise _MisfitError
    return int(number)


def _to_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _MisfitError
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise _MisfitError from None
    if math.isnan(number):
        raise _MisfitError
    return number


def _to_str(value: Any) -> str:
    if not isinstance(value, str):
        raise _MisfitError
    return str(value)


def _to_path(value: Any) -> Path:
    return Path(_to_str(value))


_SCALARS: dict[Any, typing.Callable[[Any], Any]] = {
    bool: _to_bool,
    int: _to_int,
    float: _to_float,
    str: _to_str,
    Path: _to_path,
}

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    type(None): "none",
}


def _describe(annotation: Any) -> str:
    """What a field takes, in words."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in {typing.Union, types.UnionType}:
        return " or ".join(_describe(member) for member in inner)
    if origin is Literal:
        return " or ".join(str(choice) for choice in inner)
    if origin in {tuple, list}:
        if len(inner) == 2 and inner[1] is Ellipsis:
            return f"a list, each {_describe(inner[0])}"
        if origin is list:
            return f"a list, each {_describe(inner[0])}"
        return f"{len(inner)} values: " + ", ".join(_describe(one) for one in inner)
    if origin is dict:
        return f"a mapping from {_describe(inner[0])} to {_describe(inner[1])}"
    if dataclasses.is_dataclass(annotation):
        return "a group of settings"
    return _WORDS.get(annotation, str(annotation))
