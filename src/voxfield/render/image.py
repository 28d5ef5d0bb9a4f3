"""Pictures: writing PNG and EXR files, and turning depth and error into colours.

Images are (H, W, C) with C = 3 (RGB) or 4 (straight alpha), floats in [0, 1] as displayed (sRGB values) or uint8.

Scalars become colours through two scales made here in OKLab (https://bottosson.github.io/posts/oklab): lightness rises
evenly along each, so equal steps of depth or error look equally large, and a grey print keeps their order.
"""

import contextlib
import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from voxfield.checks import check_range, check_shape
from voxfield.errors import InputError
from voxfield.storage.atomic import replacing
from voxfield.storage.exr import write_exr

ERROR_AT_FULL_SCALE = 0.2
"""Mean absolute colour error that reaches the light end of the error scale. Fixed, so that pictures compare."""

SEPARATOR_PIXELS = 4
"""Width of the line between the pictures of a panel."""

# Stops (lightness, chroma, hue in degrees) in OKLCh.
# Depth: indigo, blue, teal, green, yellow. Error: black, red, orange, cream.
_DEPTH_STOPS = ((0.20, 0.09, 290.0), (0.42, 0.12, 262.0), (0.58, 0.10, 215.0), (0.76, 0.14, 155.0), (0.94, 0.13, 105.0))
_ERROR_STOPS = ((0.0, 0.0, 20.0), (0.35, 0.13, 18.0), (0.60, 0.19, 35.0), (0.82, 0.15, 75.0), (0.99, 0.03, 100.0))
_SCALE_ENTRIES = 256

_NAMED_COLOURS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0), "grey": (0.5, 0.5, 0.5)}


def colour_from_name(name: str) -> tuple[float, float, float]:
    """The RGB colour of ``"white"``, ``"black"``, ``"grey"``, ``"#rrggbb"`` or ``"r,g,b"`` (each 0 to 1).

    Returns:
        Red, green and blue, each in [0, 1].

    Raises:
        InputError: for anything else.
    """
    text = name.strip().lower()
    if text in _NAMED_COLOURS:
        return _NAMED_COLOURS[text]
    channels: list[float] = []
    if re.fullmatch(r"#[0-9a-f]{6}", text):
        channels = [int(text[i : i + 2], 16) / 255.0 for i in (1, 3, 5)]
    elif text.count(",") == 2:
        with contextlib.suppress(ValueError):
            channels = [float(part) for part in text.split(",")]
    if len(channels) != 3 or not all(0.0 <= channel <= 1.0 for channel in channels):
        raise InputError(f"Colour: expected white, black, grey, #rrggbb or r,g,b from 0 to 1, got {name!r}.")
    return channels[0], channels[1], channels[2]


def to_uint8(image: torch.Tensor) -> torch.Tensor:
    """An image as uint8: floats are clamped to [0, 1] and rounded to the nearest of 256 levels, NaN becomes 0.

    Args:
        image: (..., C) float in [0, 1], or uint8, which is returned as it is.

    Returns:
        uint8 tensor of the same shape, on the CPU, detached.
    """
    image = image.detach().cpu()
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point():
        raise InputError(f"image: expected float in [0, 1] or uint8, got {image.dtype}.")
    return image.float().nan_to_num(nan=0.0).clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8)


def write_png(path: str | os.PathLike[str], image: torch.Tensor) -> Path:
    """Write an image as an 8-bit PNG. The file appears whole or not at all; folders are made.

    Args:
        path: the file to make or replace.
        image: (H, W, 3) RGB or (H, W, 4) RGBA with straight alpha; float in [0, 1] (clamped) or uint8.

    Returns:
        The path.

    Raises:
        InputError: on other shapes or dtypes, or an image without pixels.
        OSError: when the file cannot be written.
    """
    from PIL import Image

    if image.ndim != 3 or image.shape[-1] not in (3, 4):
        raise InputError(f"image: expected shape (H, W, 3) or (H, W, 4), got {tuple(image.shape)}.")
    if image.numel() == 0:
        raise InputError(f"image: expected at least one pixel, got shape {tuple(image.shape)}.")
    picture = Image.fromarray(np.ascontiguousarray(to_uint8(image).numpy()))
    with replacing(path) as temporary:
        # Level 3 writes rendered pictures 3x faster than Pillow's default of 6 for a few per cent more bytes.
        picture.save(temporary, format="PNG", compress_level=3)
    return Path(path)


def write_linear(
    path: str | os.PathLike[str],
    rgb: torch.Tensor,
    *,
    depth: torch.Tensor | None = None,
    opacity: torch.Tensor | None = None,
) -> Path:
    """Write linear light as an EXR file, with colours as half floats. The file appears whole or not at all.

    Args:
        path: the file to make or replace; folders are made.
        rgb: (H, W, 3) float, premultiplied by ``opacity`` where that is given.
        depth: (H, W) world units, for channel Z (32 bits).
        opacity: (H, W) in [0, 1], for channel A.

    Returns:
        The path.

    Raises:
        InputError: on other shapes.
        MissingExtraError: the OpenEXR library is not installed.
    """
    check_shape("rgb", rgb, ("H", "W", 3))
    planes = dict(zip("RGB", rgb.detach().float().cpu().unbind(-1), strict=True))
    for name, plane in (("A", opacity), ("Z", depth)):
        if plane is not None:
            check_shape(name, plane, tuple(rgb.shape[:2]))
            planes[name] = plane.detach().float().cpu()
    return write_exr(path, {name: plane.numpy() for name, plane in planes.items()})


def depth_colours(
    depth: torch.Tensor,
    opacity: torch.Tensor | None = None,
    *,
    near: float | None = None,
    far: float | None = None,
) -> torch.Tensor:
    """Colour a depth map: near is light yellow, far is dark indigo, nothing there is black.

    Args:
        depth: (H, W) distances along the rays, world units. Non-finite values count as nothing there.
        opacity: (H, W) in [0, 1]; pixels below one half count as nothing there. All count as something when absent.
        near: the distance that gets the light end; the 2nd percentile of the depths that count when absent.
        far: the distance that gets the dark end; the 98th percentile when absent.

    Returns:
        (H, W, 3) float32 in [0, 1], on the CPU.

    Raises:
        InputError: on other shapes, or ``near`` not below ``far`` when both are given.
    """
    check_shape("depth", depth, ("H", "W"))
    if near is not None and far is not None and not near < far:
        raise InputError(f"depth_colours: expected near < far, got near {near:g} and far {far:g}.")
    depth = depth.detach().float().cpu()
    shown = torch.isfinite(depth)
    if opacity is not None:
        check_shape("opacity", opacity, tuple(depth.shape))
        shown &= opacity.detach().cpu() >= 0.5
    if near is None or far is None:
        low, high = _percentiles(depth[shown])
        near, far = low if near is None else near, high if far is None else far
    # A flat depth map (a wall, one pixel) has no range: the smallest positive width keeps the division finite.
    span = max(far - near, 1e-9)
    position = ((far - depth) / span).nan_to_num(nan=0.0).clamp(0.0, 1.0)
    return _colour_scale("depth", position) * shown[..., None]


def error_colours(
    prediction: torch.Tensor, truth: torch.Tensor, *, full_scale: float = ERROR_AT_FULL_SCALE
) -> torch.Tensor:
    """Colour the absolute difference of two images, averaged over channels: none is black, ``full_scale`` is cream.

    The position on the scale is the square root of error / ``full_scale``, so that the small errors of a good picture
    still show.

    Args:
        prediction: (H, W, 3) float in [0, 1].
        truth: the same shape.
        full_scale: error that reaches the light end, above 0. Larger errors look the same.

    Returns:
        (H, W, 3) float32 in [0, 1], on the CPU.
    """
    check_shape("prediction", prediction, ("H", "W", 3))
    check_shape("truth", truth, tuple(prediction.shape))
    check_range("full_scale", full_scale, above=0.0)
    error = (prediction.detach().float().cpu() - truth.detach().float().cpu()).abs().mean(dim=-1)
    return _colour_scale("error", (error / full_scale).nan_to_num(nan=1.0).clamp(0.0, 1.0).sqrt())


def side_by_side(images: Sequence[torch.Tensor]) -> torch.Tensor:
    """Put images of one size beside each other, left to right, with thin grey lines between them.

    Args:
        images: at least one (H, W, 3), float in [0, 1] or uint8.

    Returns:
        (H, len(images) * (W + SEPARATOR_PIXELS) - SEPARATOR_PIXELS, 3) uint8, on the CPU.

    Raises:
        InputError: when there is no image or their shapes differ.
    """
    if not images:
        raise InputError("side_by_side: expected at least one image, got none.")
    check_shape("images[0]", images[0], ("H", "W", 3))
    line = torch.full((images[0].shape[0], SEPARATOR_PIXELS, 3), 128, dtype=torch.uint8)
    parts: list[torch.Tensor] = []
    for index, image in enumerate(images):
        check_shape(f"images[{index}]", image, tuple(images[0].shape))
        parts += [line, to_uint8(image)] if parts else [to_uint8(image)]
    return torch.cat(parts, dim=1)


def normal_colours(normals: torch.Tensor) -> torch.Tensor:
    """Colour normals the usual way: (n + 1) / 2 of world x, y, z as red, green, blue; black where there is none.

    Args:
        normals: (H, W, 3), unit or zero. Non-finite ones count as none.

    Returns:
        (H, W, 3) float32 in [0, 1], on the CPU.
    """
    check_shape("normals", normals, ("H", "W", 3))
    normals = normals.detach().float().cpu()
    shown = torch.isfinite(normals).all(-1, keepdim=True) & (normals != 0).any(-1, keepdim=True)
    return torch.where(shown, 0.5 * normals + 0.5, 0.0).clamp(0.0, 1.0)


def level_colours(level: torch.Tensor, opacity: torch.Tensor | None = None) -> torch.Tensor:
    """Colour levels of a pyramid on the scale of depth: the finest is light, the coarsest dark.

    Args:
        level: (H, W) in [0, 1], 1 the finest.
        opacity: (H, W) in [0, 1]; pixels below one half are black, as in `depth_colours`.

    Returns:
        (H, W, 3) float32 in [0, 1], on the CPU.
    """
    check_shape("level", level, ("H", "W"))
    # Near and fine get the same end of the scale.
    return depth_colours(1.0 - level, opacity, near=0.0, far=1.0)


def panel(
    truth: torch.Tensor,
    rgb: torch.Tensor,
    depth: torch.Tensor,
    opacity: torch.Tensor | None = None,
    normals: torch.Tensor | None = None,
) -> torch.Tensor:
    """One picture to judge a rendering by: truth | prediction | error | depth, and normals where there are some.

    Args:
        truth: (H, W, 3) float in [0, 1].
        rgb: (H, W, 3) float in [0, 1], what the model rendered.
        depth: (H, W) world units.
        opacity: (H, W) in [0, 1], see `depth_colours`.
        normals: (H, W, 3), see `normal_colours`.

    Returns:
        (H, 4 W + 3 SEPARATOR_PIXELS, 3) uint8, on the CPU; with normals a fifth picture wider.
    """
    pictures = [truth, rgb, error_colours(rgb, truth), depth_colours(depth, opacity)]
    if normals is not None:
        pictures.append(normal_colours(normals))
    return side_by_side(pictures)


def _percentiles(values: torch.Tensor) -> tuple[float, float]:
    """The 2nd and 98th percentile; (0, 1) of nothing."""
    if values.numel() == 0:
        return 0.0, 1.0
    # numpy: torch.quantile refuses more than 16 million values.
    low, high = np.percentile(values.numpy(), (2.0, 98.0))
    return float(low), float(high)


def _colour_scale(name: str, position: torch.Tensor) -> torch.Tensor:
    """Colours (..., 3) of positions (...) in [0, 1] on a named scale."""
    table = _scale_table(name)
    return table[(position * (_SCALE_ENTRIES - 1)).round().long()]


@functools.cache
def _scale_table(name: str) -> torch.Tensor:
    """(256, 3) sRGB colours, linear in OKLab between the stops of the scale, which are spaced by their lightness."""
    stops = np.array(_DEPTH_STOPS if name == "depth" else _ERROR_STOPS)
    lightness, chroma, hue = stops[:, 0], stops[:, 1], np.radians(stops[:, 2])
    steps = np.linspace(lightness[0], lightness[-1], _SCALE_ENTRIES)
    a = np.interp(steps, lightness, chroma * np.cos(hue))
    b = np.interp(steps, lightness, chroma * np.sin(hue))
    return torch.from_numpy(_oklab_to_srgb(np.stack([steps, a, b], axis=-1))).float()


def _oklab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """OKLab (..., 3) to displayed sRGB in [0, 1], clipped to the gamut."""
    to_cone = np.array(
        [[1.0, 0.3963377774, 0.2158037573], [1.0, -0.1055613458, -0.0638541728], [1.0, -0.0894841775, -1.2914855480]]
    )
    to_linear = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = ((lab @ to_cone.T) ** 3) @ to_linear.T
    linear = np.clip(linear, 0.0, 1.0)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1.0 / 2.4) - 0.055)
