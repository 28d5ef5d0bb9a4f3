"""Scenes of several fields as JSON files.

A scene lists members, each a run on photographs or an OpenVDB file, and where they stand ::

    {
        "format": "voxfield-scene",
        "version": 1,
        "background": "white",
        "cameras": "lego",
        "members": [
            {"name": "lego", "path": "runs/lego"},
            {
                "name": "smoke",
                "path": "smoke.vdb",
                "transform": {"translation": [0, 0, 1], "rotation": [1, 0, 0, 0], "scale": 0.5},
                "crop": {"minimum": [-1, -1, 0], "maximum": [1, 1, 2]},
                "colour": [0.8, 0.8, 0.8],
            },
        ],
    }

Reading is strict: unknown keys, repeated ones, numbers that are not finite, transforms that are no similarity and paths
that leave the file's folder are refused. The world is right-handed, +Z up; quaternions are w, x, y, z.
"""

import json
import math
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

import torch

from voxfield.checks import nearest_names
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.geometry.bounds import Bounds, Vector
from voxfield.geometry.pose import SceneTransform
from voxfield.geometry.rotations import rotations_from_quaternions

FORMAT: Final = "voxfield-scene"
VERSION: Final = 1
MOST_MEMBERS: Final = 256
MOST_BYTES: Final = 1 << 24
_GREY: Final = (0.8, 0.8, 0.8)
_SCENE_KEYS: Final = ("format", "version", "background", "cameras", "members")
_VOLUME_KEYS: Final = ("density_grid", "colour_grid", "colour", "colour_space")
_MEMBER_KEYS: Final = ("name", "path", "transform", "crop", "density_factor", *_VOLUME_KEYS)

ColourSpace = Literal["srgb", "linear"]


@dataclass(frozen=True, kw_only=True)
class VolumeLook:
    """How an OpenVDB file of another program is looked at."""

    density_grid: str | None = None
    """Name of its grid of densities; None: ``density``, or the only one of numbers."""
    colour_grid: str | None = None
    """Name of its grid of colours; None: ``colour`` is that of all."""
    colour: Vector = _GREY
    """Of what has no grid of colours, each at least 0."""
    colour_space: ColourSpace = "srgb"
    """What the colours are: as on a screen, or linear light."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneMember:
    """One field of a scene."""

    name: str
    """By which messages and ``cameras`` call it."""
    path: Path
    """The run's directory, or the ``.vdb`` file."""
    transform: SceneTransform
    """Its own world to the scene's."""
    crop: Bounds | None = None
    """Box of its own world outside which it is nothing; None: it is whole."""
    density_factor: float = 1.0
    """What its densities are multiplied by, at least 0."""
    look: VolumeLook | None = None
    """Of an OpenVDB file, what the scene says of its grids; None: nothing."""

    @property
    def is_volume(self) -> bool:
        """Whether it is an OpenVDB file."""
        return self.path.suffix.lower() == ".vdb"


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneDescription:
    """What a scene file says."""

    path: Path
    members: tuple[SceneMember, ...]
    """At least one, of different names."""
    background: str = "white"
    """Colour behind everything, a name or ``r,g,b``."""
    cameras: str | None = None
    """Name of the member along whose cameras paths lead; None: around all members."""


def is_scene(path: str | os.PathLike[str]) -> bool:
    """Whether a path is meant as a scene: a file that ends in ``.json``."""
    return Path(path).suffix.lower() == ".json"


def read_scene(file: str | os.PathLike[str]) -> SceneDescription:
    """Read a scene; its members are looked up, not opened.

    Raises:
        MissingFileError: there is no such file, or no member where it says.
        FormatError: it is no scene; the message says where it is wrong.
    """
    path = Path(file)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise FormatError(f"{path}: expected a scene of at most {MOST_BYTES >> 20} MiB.")
        content = json.loads(
            path.read_text(encoding="utf-8"), object_pairs_hook=_without_repeats, parse_constant=_refuse_constant
        )
    except FileNotFoundError:
        raise MissingFileError(f"{path}: there is no such scene.") from None
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}).") from None
    except _FaultError as error:
        raise FormatError(f"{path}: {error}") from None
    except (ValueError, RecursionError):
        raise FormatError(f"{path}: expected a scene as JSON, but it is not valid JSON.") from None
    try:
        return _parse(content, path)
    except _AbsentError as error:
        raise MissingFileError(f"{path}: {error}") from None
    except _FaultError as error:
        raise FormatError(f"{path}: {error}") from None


class _FaultError(ValueError):
    """What is wrong with a scene, and where in it."""


class _AbsentError(_FaultError):
    """A member that is not where the scene says."""


def _without_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise _FaultError(f"{repeated!r} is there twice. Keep one.")
    return found


def _refuse_constant(name: str) -> float:
    raise _FaultError(f"expected finite numbers, got {name}.")


def _parse(content: Any, path: Path) -> SceneDescription:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise _FaultError(f'expected a scene: a JSON object with "format": "{FORMAT}".')
    version = content.get("version")
    if type(version) is not int or version < 1:
        raise _FaultError(f"version: expected {VERSION}, got {version!r}.")
    if version > VERSION:
        raise _FaultError(f"is of version {version}, newer than this Voxfield reads ({VERSION}). Update it.")
    _check_keys(content, _SCENE_KEYS, "")
    listed = content.get("members")
    if not isinstance(listed, list) or not 1 <= len(listed) <= MOST_MEMBERS:
        raise _FaultError(f"members: expected a list of 1 to {MOST_MEMBERS} members.")
    members = tuple(_member(entry, f"members[{index}]", path.parent) for index, entry in enumerate(listed))
    names = [member.name for member in members]
    for name in names:
        if names.count(name) > 1:
            raise _FaultError(f"members: two are called {name!r}. Give each a name of its own.")
    cameras = content.get("cameras")
    if cameras is not None:
        known = [member.name for member in members if not member.is_volume]
        if cameras not in known:
            advice = nearest_names(str(cameras), known) if known else "There is none."
            raise _FaultError(f"cameras: expected the name of a member that is a run, got {cameras!r}. {advice}")
    background = _text(content.get("background", "white"), "background")
    return SceneDescription(path=path, members=members, background=background, cameras=cameras)


def _member(entry: Any, where: str, folder: Path) -> SceneMember:
    if not isinstance(entry, dict):
        raise _FaultError(f"{where}: expected an object with 'name' and 'path', got {type(entry).__name__}.")
    _check_keys(entry, _MEMBER_KEYS, f"{where}: ")
    for key in ("name", "path"):
        if key not in entry:
            raise _FaultError(f"{where}: {key!r} is missing.")
    name = _text(entry["name"], f"{where}: name")
    where = f"{where} ({name})"
    path = _path(_text(entry["path"], f"{where}: path"), where, folder)
    looks = {key: entry[key] for key in _VOLUME_KEYS if key in entry}
    is_volume = path.suffix.lower() == ".vdb"
    if looks and not is_volume:
        raise _FaultError(f"{where}: {', '.join(looks)}: only .vdb files have these. Remove them.")
    return SceneMember(
        name=name,
        path=path,
        transform=_transform(entry.get("transform", {}), f"{where}: transform"),
        crop=_crop(entry["crop"], f"{where}: crop") if "crop" in entry else None,
        density_factor=_number(entry.get("density_factor", 1.0), f"{where}: density_factor", 0.0, 1e9),
        look=_look(looks, where) if looks else None,
    )


def _path(text: str, where: str, folder: Path) -> Path:
    """The member's file or folder, which lies within the scene's folder: a scene is handed on together with it."""
    named = Path(text)
    path = folder / named
    try:
        leads_out = named.is_absolute() or not path.resolve().is_relative_to(folder.resolve())
        mode = _mode(path)
    except (OSError, RuntimeError, ValueError):
        # Names that are too long, links that lead to themselves, characters that no name has.
        raise _FaultError(f"{where}: path: {text[:80]!r} is no path here.") from None
    if leads_out:
        raise _FaultError(
            f"{where}: path: {text!r} leads out of the scene's folder. Name what lies beside or below the file."
        )
    if path.suffix.lower() == ".json":
        raise _FaultError(f"{where}: path: {text!r} is a scene itself. Name that one's members instead.")
    if mode is None:
        raise _AbsentError(f"{where}: path: {path} is not there. Put it there, or correct the path.")
    if not stat.S_ISDIR(mode) and path.suffix.lower() != ".vdb":
        raise _FaultError(f"{where}: path: expected a run's directory or a .vdb file, got {text!r}.")
    return path


def _mode(path: Path) -> int | None:
    """What lies there, None where nothing does.

    Not `Path.exists`, which from Python 3.14 on says of a name that cannot be that it is only absent.

    Raises:
        OSError: such a name, or one that may not be looked at.
    """
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _transform(entry: Any, where: str) -> SceneTransform:
    """A similarity, from its parts or as a matrix."""
    if not isinstance(entry, dict):
        raise _FaultError(f"{where}: expected an object with translation, rotation and scale, or a matrix.")
    _check_keys(entry, ("translation", "rotation", "scale", "matrix"), f"{where}: ")
    if "matrix" in entry:
        if len(entry) > 1:
            raise _FaultError(f"{where}: a matrix says all. Remove the other keys.")
        rows = entry["matrix"]
        if not isinstance(rows, list) or len(rows) != 4:
            raise _FaultError(f"{where}: matrix: expected four rows of four numbers.")
        matrix = [_numbers(row, 4, f"{where}: matrix") for row in rows]
        return _similarity(lambda: SceneTransform(matrix=torch.tensor(matrix, dtype=torch.float64)), where)
    scale = _number(entry.get("scale", 1.0), f"{where}: scale", 1e-9, 1e9)
    shift = _numbers(entry.get("translation", [0.0, 0.0, 0.0]), 3, f"{where}: translation")
    quaternion = _numbers(entry.get("rotation", [1.0, 0.0, 0.0, 0.0]), 4, f"{where}: rotation")
    length = math.sqrt(sum(part * part for part in quaternion))
    if abs(length - 1) > 1e-3:
        raise _FaultError(f"{where}: rotation: expected a unit quaternion w, x, y, z, got one {length:.4g} long.")
    rotation = rotations_from_quaternions(torch.tensor([quaternion], dtype=torch.float64))[0]
    return _similarity(
        lambda: SceneTransform.from_parts(rotation, scale, torch.tensor(shift, dtype=torch.float64)), where
    )


def _similarity(make: Callable[[], SceneTransform], where: str) -> SceneTransform:
    try:
        return make()
    except InputError:
        raise _FaultError(
            f"{where}: expected a similarity: a rotation times one positive scale, a shift, and 0 0 0 1 below."
        ) from None


def _crop(entry: Any, where: str) -> Bounds:
    if not isinstance(entry, dict) or set(entry) != {"minimum", "maximum"}:
        raise _FaultError(f"{where}: expected an object with 'minimum' and 'maximum'.")
    low, high = (_numbers(entry[key], 3, f"{where}: {key}") for key in ("minimum", "maximum"))
    if not all(a < b for a, b in zip(low, high, strict=True)):
        raise _FaultError(f"{where}: expected minimum below maximum along x, y and z, got {low} and {high}.")
    return Bounds(minimum=cast(Vector, tuple(low)), maximum=cast(Vector, tuple(high)))


def _look(entry: Mapping[str, Any], where: str) -> VolumeLook:
    for key in ("density_grid", "colour_grid"):
        if key in entry:
            _text(entry[key], f"{where}: {key}")
    if "colour" in entry and "colour_grid" in entry:
        raise _FaultError(f"{where}: colour and colour_grid: one of them says the colours. Remove the other.")
    space = entry.get("colour_space", "srgb")
    if space not in ("srgb", "linear"):
        raise _FaultError(f"{where}: colour_space: expected srgb or linear, got {space!r}.")
    colour = _numbers(entry.get("colour", list(_GREY)), 3, f"{where}: colour")
    if min(colour) < 0:
        raise _FaultError(f"{where}: colour: expected three numbers of at least 0, got {colour}.")
    return VolumeLook(
        density_grid=entry.get("density_grid"),
        colour_grid=entry.get("colour_grid"),
        colour=cast(Vector, tuple(colour)),
        colour_space=space,
    )


def _check_keys(entry: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in entry:
        if key not in known:
            raise _FaultError(f"{where}unknown key {key!r}. {nearest_names(key, known)}")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise _FaultError(f"{where}: expected some text, got {value!r}.")
    return value


def _numbers(value: Any, count: int, where: str) -> list[float]:
    if not isinstance(value, list) or len(value) != count:
        raise _FaultError(f"{where}: expected a list of {count} numbers, got {value!r}.")
    return [_number(one, where, -1e9, 1e9) for one in value]


def _number(value: Any, where: str, low: float, high: float) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise _FaultError(f"{where}: expected a number from {low:g} to {high:g}, got {value!r}.")
    return float(value)
