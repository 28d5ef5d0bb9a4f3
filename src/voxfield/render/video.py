"""Frames to a GIF, or to an MP4 file that plays everywhere: H.264, yuv420p, BT.709, index at the front.

Encoding is PyAV's, from the extra ``video``, imported on first use.
"""

import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voxfield.checks import check_range
from voxfield.errors import InputError, MissingExtraError, UnavailableError
from voxfield.storage.atomic import replacing

_BT709 = 1  # the number FFmpeg gives BT.709 primaries, transfer and matrix
_LIMITED_RANGE = 1  # and luma in 16..235, which players expect of yuv420p


def require_video() -> None:
    """Raise now, before anything is rendered, when videos cannot be written here.

    Raises:
        MissingExtraError: when PyAV is not installed.
        UnavailableError: when the installed PyAV has no H.264 encoder.
    """
    av = _import_av()
    try:
        av.codec.Codec("libx264", "w")
    except av.codec.codec.UnknownCodecError:
        raise UnavailableError(
            "Writing MP4 needs PyAV with the libx264 encoder, which this build lacks. Reinstall it from its wheel: "
            'pip install --force-reinstall "voxfield[video]".'
        ) from None


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[torch.Tensor | np.ndarray],
    *,
    fps: float,
    quality: int = 18,
) -> int:
    """Encode frames as they come, so that a long video needs the memory of one frame.

    The file appears whole when the last frame is in; if ``frames`` raises, nothing is left behind. An odd width or
    height is made even, as yuv420p needs, by repeating the last column or row.

    Args:
        path: the .mp4 file to make or replace.
        frames: (H, W, 3) uint8 RGB each, all of one size, at least one.
        fps: frames a second, above 0, at most 240.
        quality: x264's constant rate factor, 0 (lossless) to 51 (worst); 18 looks like the original.

    Returns:
        How many frames were written.

    Raises:
        InputError: when there is no frame, a frame has another shape or dtype, or ``fps`` or ``quality`` is off range.
        MissingExtraError: when PyAV is not installed.
        UnavailableError: when it has no H.264 encoder.
    """
    check_range("fps", fps, above=0.0, maximum=240.0)
    check_range("quality", quality, minimum=0, maximum=51)
    require_video()
    iterator = iter(frames)
    try:
        first = _frame_array(next(iterator), 0, None)
    except StopIteration:
        raise InputError(f"{path}: expected at least one frame to write, got none.") from None
    with replacing(path) as temporary:
        return _encode(temporary, first, iterator, fps=fps, quality=quality)


def write_gif(path: str | os.PathLike[str], frames: Sequence[torch.Tensor], *, seconds: float) -> Path:
    """Write frames (H, W, 3) uint8, at least one, all of one size, as an animated GIF that takes ``seconds`` and begins
    again, which needs no package for videos. Players show hundredths of a second.
    """
    from PIL import Image

    pictures = [Image.fromarray(_frame_array(frame, i, frames[0].shape)) for i, frame in enumerate(frames)]
    milliseconds = max(20, round(1000 * seconds / len(pictures)))
    with replacing(path) as temporary:
        pictures[0].save(temporary, "GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)
    return Path(path)


def _encode(
    path: Path, first: np.ndarray, rest: Iterable[torch.Tensor | np.ndarray], *, fps: float, quality: int
) -> int:
    av = _import_av()
    height, width = first.shape[:2]
    # faststart moves the index to the front of the file: browsers then play it while it loads.
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": str(quality), "preset": "medium"}
        )
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.color_range = _LIMITED_RANGE
        codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
        count = 0
        for array in _frame_arrays(first, rest):
            padded = np.pad(array, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            picture = av.VideoFrame.from_ndarray(padded, format="rgb24")
            # Without naming the matrix, swscale converts by BT.601 and players that assume BT.709 shift the hues.
            picture = picture.reformat(format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED_RANGE)
            container.mux(stream.encode(picture))
            count += 1
        container.mux(stream.encode(None))
    return count


def _frame_arrays(first: np.ndarray, rest: Iterable[torch.Tensor | np.ndarray]) -> Iterable[np.ndarray]:
    yield first
    for index, frame in enumerate(rest, start=1):
        yield _frame_array(frame, index, first.shape)


def _frame_array(frame: torch.Tensor | np.ndarray, index: int, shape: tuple[int, ...] | None) -> np.ndarray:
    array = frame.detach().cpu().numpy() if isinstance(frame, torch.Tensor) else np.asarray(frame)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3 or array.size == 0:
        raise InputError(f"frame {index}: expected (H, W, 3) uint8, got {array.shape} {array.dtype}.")
    if shape is not None and array.shape != shape:
        raise InputError(f"frame {index}: expected the size of the first frame {shape}, got {array.shape}.")
    return array


def _import_av() -> Any:
    try:
        import av
    except ImportError:
        raise MissingExtraError('Writing MP4 needs PyAV. Install it with: pip install "voxfield[video]".') from None
    return av
