"""A field as one HTML file, which draws it by marching rays through its voxels on the reader's GPU (WebGL 2).

The file needs no server and no network: its Content-Security-Policy allows its own script and style, by their hashes,
and nothing else. Script, style and shader are the files in ``web/``; `voxfield.export.packed_voxels` says how voxels
are written.
"""

import base64
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import torch

import voxfield
from voxfield.checks import check_bytes, check_choice, check_range
from voxfield.errors import InputError
from voxfield.export.packed_voxels import PackedVoxels, pack_voxels
from voxfield.export.page import escape
from voxfield.geometry.camera import Cameras
from voxfield.kernels.sh_grid.grid import MAX_DEGREE
from voxfield.render.image import colour_from_name, to_uint8
from voxfield.storage.atomic import write_text
from voxfield.voxels.voxel_grid import Resolution, VoxelGrid

SUFFIXES: Final = (".html", ".htm")
SCRIPTS: Final = ("unpack.js", "paint.js", "camera.js", "page.js")
"""Files of ``web/`` that make the page's script, in this order."""
OTHER_FOV: Final = 60.0
"""Degrees from top to bottom that a page opens with where the run's cameras are not perspective."""
CLOSEST: Final = 0.05
"""Samples begin at most at this share of the scene's longest side before the eye, however far the run's began: on the
page one may go nearer than its cameras stood."""


@dataclass(frozen=True, kw_only=True)
class PageConfig:
    """How a field becomes a page."""

    resolution: int | None = None
    """Voxels along the longest side, 8 to 1024; None: those of a plenoxels run's own grid, 256 for other fields."""
    sh_degree: int = 2
    """Highest band of the colours' harmonics, 0 to 3; fewer where the file would be larger than ``max_bytes``, or where
    the run's grid has fewer."""
    min_opacity: float = 0.01
    """Of fields that are sampled: voxels that stop less of the light are left out, 0 to 1."""
    max_bytes: int | str = "25MB"
    """Most that the file may take."""
    camera: int = 0
    """The training camera that the page opens with, from 0; -1 is the last."""
    background: str | None = None
    """Colour name or ``r,g,b``, or ``transparent``: what embeds the page shows through; None: the run's setting."""
    title: str | None = None
    """Of the page; None: the run's name."""

    def __post_init__(self) -> None:
        if self.resolution is not None:
            check_range("resolution", self.resolution, minimum=8, maximum=1024)
        check_choice("sh_degree", self.sh_degree, range(MAX_DEGREE + 1))
        check_range("min_opacity", self.min_opacity, minimum=0.0, maximum=1.0)
        check_bytes("max_bytes", self.max_bytes)
        if self.background is not None:
            page_colour(self.background)


@dataclass(frozen=True, kw_only=True)
class PageExport:
    """What was written."""

    file: Path
    resolution: Resolution
    """Voxels along x, y, z."""
    voxels: int
    """Of these, how many the page holds: those that rays can see something of."""
    sh_degree: int
    """Highest band of the colours' harmonics."""
    bytes: int
    """Size of the file."""
    left_out: str | None = None
    """What the model has besides, which the page does not show."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PageView:
    """What the page opens with."""

    camera_to_world: torch.Tensor
    """(3, 4), world units."""
    fov: float
    """Angle of view from top to bottom, degrees."""
    aspect: float
    """Width by height of the picture, all of which is shown whatever the window's shape."""

    @classmethod
    def from_cameras(cls, cameras: Cameras, i: int) -> "PageView":
        """What camera ``i`` sees, of a lens that is not perspective something like its middle.

        Raises:
            InputError: there is no such camera.
        """
        check_range("camera", i, minimum=-len(cameras), maximum=len(cameras) - 1)
        width, height = float(cameras.width[i]), float(cameras.height[i])
        across, along = cameras.focal[i].tolist()
        perspective = cameras.model == "perspective"
        return cls(
            camera_to_world=cameras.camera_to_world[i].detach().cpu(),
            fov=2 * math.degrees(math.atan(0.5 * height / along)) if perspective else OTHER_FOV,
            aspect=(width / across) / (height / along) if perspective else width / height,
        )


def check_page_path(path: str | os.PathLike[str]) -> None:
    """Raise InputError unless ``path`` ends as HTML files do."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: expected a file that ends in {' or '.join(SUFFIXES)}.")


def page_colour(name: str) -> str:
    """``name`` (see `voxfield.render.image.colour_from_name`) as ``#rrggbb``; ``transparent`` as it is."""
    if name.strip().lower() == "transparent":
        return "transparent"
    red, green, blue = to_uint8(torch.tensor(colour_from_name(name))).tolist()
    return f"#{red:02x}{green:02x}{blue:02x}"


def write_page(
    path: str | os.PathLike[str],
    grid: VoxelGrid,
    *,
    view: PageView,
    title: str,
    background: str = "white",
    linear: bool = False,
    near: float = 0.0,
    step: float = 0.5,
    sh_degree: int = 2,
    max_bytes: int | str = "25MB",
    left_out: str | None = None,
) -> PageExport:
    """Write ``grid`` as a page.

    Args:
        path: the ``.html`` file; it appears whole or not at all.
        grid: on the CPU, in the world's units.
        view: what the page opens with.
        title: any text.
        background: see `PageConfig`.
        linear: colours are exposed linear light, which the page turns into sRGB, and not sRGB values.
        near: distance of the first sample along a ray, world units, at least 0; see ``CLOSEST``.
        step: distance between samples in voxels, above 0 to 4; while the camera moves it is at least 1.
        sh_degree: highest band of the colours' harmonics, 0 to 3, that is written if it fits.
        max_bytes: most that the file may take, see `voxfield.checks.check_bytes`.
        left_out: told on the page and in what is returned.

    Raises:
        InputError: settings out of range, a grid that holds no matter or values that are not finite, or one that does
            not fit into ``max_bytes`` even without view-dependent colours.
    """
    check_page_path(path)
    check_range("near", near, minimum=0.0)
    check_range("step", step, above=0.0, maximum=4.0)
    packed = pack_voxels(grid, degree=sh_degree)
    bounds = grid.scene_bounds
    scene = {
        "low": list(bounds.minimum),
        "high": list(bounds.maximum),
        "near": min(near, CLOSEST * max(bounds.size)),
        "step": step,
        "linear": linear,
        "background": page_colour(background),
        "camera": view.camera_to_world.flatten().tolist(),
        "fov": view.fov,
        "aspect": view.aspect,
    }
    text, degree = _fitting(packed, scene, title, left_out, check_bytes("max_bytes", max_bytes))
    write_text(path, text)
    return PageExport(
        file=Path(path),
        resolution=packed.resolution,
        voxels=packed.voxels,
        sh_degree=degree,
        bytes=Path(path).stat().st_size,
        left_out=left_out,
    )


def _fitting(
    packed: PackedVoxels, scene: Mapping[str, Any], title: str, left_out: str | None, most: int
) -> tuple[str, int]:
    """The page with as many bands as ``most`` bytes hold, and the highest of them."""
    for degree in range(packed.degree, -1, -1):
        part = packed.up_to(degree)
        # Counted before it is written: three bytes become four characters.
        size = len(_page(part, scene, title, left_out, {}).encode())
        size += sum(len(_part(name, b"")) + 4 * -(-len(content) // 3) for name, content in part.parts.items())
        if size <= most:
            return _page(part, scene, title, left_out, part.parts), degree
    raise InputError(
        f"max_bytes: {packed.voxels:,} voxels take {size / 1e6:.1f} MB as a page even without view-dependent colours, "
        f"more than the {most / 1e6:.1f} MB allowed. Ask for a lower --resolution, or allow more."
    )


def _page(
    packed: PackedVoxels, scene: Mapping[str, Any], title: str, left_out: str | None, parts: Mapping[str, bytes]
) -> str:
    """The text of the page with these parts of the voxels."""
    style, script = _web("page.css"), "".join(_web(name) for name in SCRIPTS)
    size = " × ".join(map(str, packed.resolution))
    about = f"{packed.voxels:,} voxels of {size}, made by Voxfield {voxfield.__version__}."
    if left_out:
        about += f" Not shown: {left_out}."
    said = {
        **scene,
        "size": list(packed.resolution),
        "voxels": packed.voxels,
        "bricks": packed.bricks,
        "voxel": packed.voxel,
        "degree": packed.degree,
        "steps": packed.steps.flatten().tolist(),
        "zeros": packed.zeros.flatten().tolist(),
    }
    filled = {
        "POLICY": f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'",
        "TITLE": escape(title),
        "STYLE": style,
        "ABOUT": escape(about),
        # No text in it can end the element.
        "SCENE": json.dumps(said, allow_nan=False).replace("<", "\\u003c"),
        "SHADER": _web("voxels.glsl"),
        "PARTS": "".join(_part(name, content) for name, content in parts.items()),
        "SCRIPT": script,
    }
    return re.sub(r"@([A-Z]+)@", lambda found: filled[found[1]], _web("page.html"))


def _part(name: str, content: bytes) -> str:
    """A part of the voxels as an element that is no script, whatever its name is."""
    return f'<script type="text/plain" id="part-{name}">{base64.b64encode(content).decode("ascii")}</script>\n'


def _hash(text: str) -> str:
    """As a Content-Security-Policy names what stands in an element."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _web(name: str) -> str:
    """A file of ``web/``, with plain line feeds, as browsers read them: hashes are of these."""
    return resources.files("voxfield.export").joinpath("web", name).read_text(encoding="utf-8").replace("\r\n", "\n")
