"""Scenes as Python scripts that Blender runs, and Blender run as a program of its own to make ``.blend`` files of them.

Blender's cameras have OpenGL axes and its world +Z up, as here, so that matrices stay as they are. A volume's material
absorbs by the density and emits the field's colour by as much: Cycles then computes what Voxfield renders, but for
colours that change with the view.
"""

import os
import pprint
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch

from voxfield.colour import linear_from_srgb
from voxfield.errors import InputError, MissingFileError, UnavailableError
from voxfield.export.blender_script import SCRIPT
from voxfield.geometry.bounds import Vector
from voxfield.geometry.camera import Cameras
from voxfield.geometry.pose import SceneTransform
from voxfield.storage.atomic import replacing, write_text

OLDEST: Final = (4, 2)
"""Blender's version that scripts need."""
_PROBE_SECONDS: Final = 120.0
_BUILD_SECONDS: Final = 3600.0
_SAMPLES: Final = 32


@dataclass(frozen=True, kw_only=True)
class BlenderMember:
    """A volume or a mesh of a scene."""

    name: str
    file: str
    """Relative to the script, with slashes."""
    kind: Literal["volume", "mesh"]
    """An OpenVDB file, or a PLY one with vertex colours, +Z up."""
    transform: SceneTransform
    """Its coordinates to the scene's."""
    density_grid: str = "density"
    """Of a volume."""
    density_factor: float = 1.0
    """What a volume's densities are multiplied by."""
    colour_grid: str | None = None
    """Of a volume: a grid of vectors; None: one ``colour``."""
    harmonics: bool = False
    """Whether that grid holds coefficients of the constant harmonic: the colour is 1/2 + Y_0 times them."""
    colour: Vector = (0.8, 0.8, 0.8)
    """Of a volume without a grid of colours."""
    linear: bool = False
    """Whether colours are linear light; otherwise sRGB."""

    def plain(self) -> dict[str, Any]:
        """For the script, where a single colour is linear light."""
        colour = torch.tensor(self.colour)
        return {
            "name": self.name,
            "kind": self.kind,
            "file": self.file,
            "matrix": self.transform.matrix.tolist(),
            "density_grid": self.density_grid,
            "density_factor": self.density_factor,
            "colour_grid": self.colour_grid,
            "harmonics": self.harmonics,
            "colour": (colour if self.linear else linear_from_srgb(colour)).tolist(),
            "linear": self.linear,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class BlenderPath:
    """A camera that moves."""

    name: str
    cameras: Cameras
    """Of its frames: perspective ones of one size."""
    fps: float
    """Frames a second, above 0."""

    def plain(self) -> dict[str, Any]:
        """For the script."""
        cameras = self.cameras
        fovs = torch.rad2deg(2 * torch.atan(0.5 * cameras.height / cameras.focal[:, 1]))
        return {
            "name": self.name,
            "fps": self.fps,
            "fovs": fovs.double().tolist(),
            "matrices": [_rows(pose) for pose in cameras.camera_to_world],
        }


def write_blender_script(
    path: str | os.PathLike[str],
    members: Sequence[BlenderMember],
    *,
    name: str,
    cameras: Cameras | None = None,
    camera_names: Sequence[str] = (),
    film: BlenderPath | None = None,
    background: Vector = (1.0, 1.0, 1.0),
    size: float = 1.0,
) -> Path:
    """Write a script that builds a scene in Blender.

    Args:
        path: the ``.py`` file.
        members: what is in the scene; their files lie beside the script.
        name: of the collection that everything is in.
        cameras: of photographs, perspective ones; their lens distortion is left out.
        camera_names: what they are called, as many.
        film: the camera that renders.
        background: sRGB colour of the world.
        size: longest side of the scene, which says how large cameras are drawn.

    Raises:
        InputError: another ending, or cameras that are no perspective ones.
    """
    file = Path(path)
    if file.suffix.lower() != ".py":
        raise InputError(f"{path}: expected a file that ends in .py.")
    listed = [] if cameras is None else _listed(cameras, camera_names)
    shape = [800, 800]
    if film is not None:
        shape = [int(film.cameras.width[0]), int(film.cameras.height[0])]
    elif listed:
        shape = listed[0]["size"]
    content = {
        "name": name,
        "members": [member.plain() for member in members],
        "cameras": listed,
        "camera_size": 0.05 * size,
        "path": None if film is None else film.plain(),
        "render": {
            "size": shape,
            "samples": _SAMPLES,
            "background": linear_from_srgb(torch.tensor(background)).tolist(),
        },
    }
    text = pprint.pformat(content, width=118, sort_dicts=False, compact=True)
    script = SCRIPT.replace("@NAME@", file.name.replace("\\", "").replace('"', "")).replace("@SCENE@", text)
    write_text(file, script)
    return file


def check_blender(blender: str | os.PathLike[str]) -> None:
    """Raise as `make_blend` does unless a program is Blender, or a Python that has it, of a version that will do."""
    _command(blender)


def make_blend(blender: str | os.PathLike[str], script: Path, output: Path) -> Path:
    """Let Blender run a script and save what it builds.

    Args:
        blender: Blender's program, 4.2 or later, or that of a Python that has the module ``bpy``.
        script: see `write_blender_script`.
        output: the ``.blend`` file.

    Raises:
        MissingFileError: there is no such program.
        UnavailableError: it is neither, too old, or fails; the message ends in what it said.
    """
    start = _command(blender)
    # A .blend of before stays until there is a new one.
    with replacing(output) as temporary:
        made = temporary.with_name(f"{temporary.name}.blend")
        try:
            said = _run([*start, str(script.resolve()), "--", "--save", str(made.resolve())], _BUILD_SECONDS)
            if not made.is_file():
                raise UnavailableError(f"{blender}: made no {output.name}. It said: {_last(said)}")
            made.replace(temporary)
        finally:
            made.unlink(missing_ok=True)
    return output


def _command(blender: str | os.PathLike[str]) -> list[str]:
    """How to run a script in it."""
    program = str(blender)
    version = re.search(r"^Blender (\d+)\.(\d+)", _run([program, "--version"], _PROBE_SECONDS), re.MULTILINE)
    start = [program, "--background", "--factory-startup", "--python-exit-code", "1", "--python"]
    if version is None:
        probe = "import bpy; print('Blender %d.%d.%d' % bpy.app.version)"
        said = _run([program, "-c", probe], _PROBE_SECONDS, failing=True)
        version, start = re.search(r"^Blender (\d+)\.(\d+)", said, re.MULTILINE), [program]
        if version is None:
            raise UnavailableError(f"{program}: is neither Blender nor a Python that has bpy. It said: {_last(said)}")
    if (int(version[1]), int(version[2])) < OLDEST:
        raise UnavailableError(f"{program}: is {version[0]}, and scripts need {OLDEST[0]}.{OLDEST[1]} or later.")
    return start


def _run(command: Sequence[str], seconds: float, *, failing: bool = False) -> str:
    """What a program says; ``failing`` ones may fail."""
    try:
        done = subprocess.run(  # noqa: S603  (the person names the program)
            command, capture_output=True, text=True, errors="replace", check=False, timeout=seconds
        )
    except FileNotFoundError:
        raise MissingFileError(f"{command[0]}: there is no such program. Name Blender's.") from None
    except OSError as error:
        raise UnavailableError(f"{command[0]}: cannot be run ({error.strerror}).") from None
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{command[0]}: took longer than {seconds:.0f} s.") from None
    said = f"{done.stdout}\n{done.stderr}"
    if done.returncode and not failing:
        raise UnavailableError(f"{command[0]}: failed with code {done.returncode}. It said: {_last(said)}")
    return said


def _last(said: str) -> str:
    """The end of what a program said, in one line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return " ".join(lines[-2:])[-300:] or "nothing."


def _listed(cameras: Cameras, names: Sequence[str]) -> list[dict[str, Any]]:
    if cameras.model != "perspective":
        raise InputError(f"cameras: Blender's are perspective ones, these {cameras.model}. Export none of them.")
    return [
        {
            "name": name,
            "size": [int(cameras.width[i]), int(cameras.height[i])],
            "focal": float(cameras.focal[i, 0]),
            "principal": cameras.principal[i].tolist(),
            "matrix": _rows(cameras.camera_to_world[i]),
        }
        for i, name in enumerate(names)
    ]


def _rows(pose: torch.Tensor) -> list[list[float]]:
    """A pose (3, 4) as the four rows of a matrix, to seven digits."""
    return [[float(f"{value:.7g}") for value in row] for row in pose.tolist()] + [[0.0, 0.0, 0.0, 1.0]]
