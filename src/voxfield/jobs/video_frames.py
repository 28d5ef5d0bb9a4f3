"""The sharpest frames of a video, evenly spread in time, into the ``images`` folder of a capture.

The time from the first frame to the end is cut into equal windows, and the sharpest frame of each is kept. Frames are
turned upright as the file says and written as JPEG. Decoding is PyAV's, from the extra ``video``, imported late.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from voxfield.errors import FormatError, MissingExtraError
from voxfield.jobs.photographs import JPEG_QUALITY, PlacedPicture
from voxfield.jobs.sharpness import measure_sharpness
from voxfield.storage.atomic import replacing
from voxfield.storage.skipped import Skipped

_LARGEST_FRAME: Final = 89_000_000
"""Pixels, as for photographs."""
_PLAYLISTS: Final = ("hls", "dash", "concat", "concatf", "image2")
"""Formats whose files name other files."""
_UNSPECIFIED: Final = 2
_BT709: Final = 1


@dataclass(frozen=True, kw_only=True)
class FrameSchedule:
    """Which frames there are and how they fall into windows."""

    frames: int
    """Frames in the file, as counted without decoding."""
    start: float
    """Seconds: time of the first frame."""
    seconds: float
    """From the first frame to the end of the last; above 0."""
    windows: int
    """Frames to keep."""

    def window(self, time: float) -> int:
        """Index of the window that holds a frame's time."""
        place = math.floor((time - self.start) / self.seconds * self.windows)
        return min(max(place, 0), self.windows - 1)


def require_video_reading() -> None:
    """Raise MissingExtraError now, before anything is made, where PyAV is missing."""
    _import_av()


def plan_frames(video: Path, count: int) -> FrameSchedule:
    """Look through a video without decoding it.

    Args:
        video: the file.
        count: how many frames are wanted; a video with fewer gives all.

    Raises:
        FormatError: not a video, without video stream or frames, or with frames above 89 megapixels.
        MissingExtraError: PyAV is not installed.
    """
    with _opened(video) as (container, stream):
        size = stream.codec_context.width, stream.codec_context.height
        if size[0] * size[1] > _LARGEST_FRAME:
            raise FormatError(
                f"{video}: its frames of {size[0]}x{size[1]} pixels are above 89 megapixels. Scale it down."
            )
        frames, first, last = 0, math.inf, -math.inf
        # What is broken further on is reported by decoding, which gives the frames before.
        with contextlib.suppress(_import_av().FFmpegError):
            for packet in container.demux(stream):
                if packet.size == 0:
                    continue
                frames += 1
                if packet.pts is not None:
                    first = min(first, float(packet.pts * stream.time_base))
                    last = max(last, float((packet.pts + (packet.duration or 0)) * stream.time_base))
    if frames == 0:
        raise FormatError(f"{video}: holds no frames. Copy or export the video again.")
    if not last > first:
        # No times in the file: frames are then counted as if one came every second.
        first, last = 0.0, float(frames)
    return FrameSchedule(frames=frames, start=first, seconds=last - first, windows=min(count, frames))


def place_frames(
    video: Path, schedule: FrameSchedule, images: Path, advance: Callable[[int], None]
) -> tuple[list[PlacedPicture], list[Skipped]]:
    """Decode a video once and write the sharpest frame of every window as ``frame_00001.jpg``, ...

    Args:
        video: the file.
        schedule: from `plan_frames`.
        images: where to.
        advance: called with 1 after every frame decoded.

    Returns:
        The frames written, and what could not be decoded: a file that is cut short gives the frames before.

    Raises:
        FormatError: not one frame can be decoded.
    """
    placed: list[PlacedPicture] = []
    best: _Candidate | None = None

    def keep(candidate: _Candidate) -> None:
        name = f"frame_{len(placed) + 1:05d}.jpg"
        with replacing(images / name) as temporary:
            candidate.picture.save(temporary, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
        placed.append(PlacedPicture(name=name, source=f"{candidate.time:.3f} s", sharpness=candidate.sharpness))

    fault: Skipped | None = None
    decoded = 0
    with _opened(video) as (container, stream):
        try:
            for index, frame in enumerate(container.decode(stream)):
                time = float(index) if frame.time is None else float(frame.time)
                picture = _upright(frame)
                rival = _Candidate(schedule.window(time), time, measure_sharpness(picture), picture)
                if best is None or rival.window > best.window:
                    if best is not None:
                        keep(best)
                    best = rival
                elif rival.sharpness > best.sharpness:
                    best = rival
                decoded = index + 1
                advance(1)
        except _import_av().FFmpegError as error:
            fault = Skipped(path=video.name, reason=f"cannot be decoded after frame {decoded} ({error.strerror})")
    if best is None:
        raise FormatError(f"{video}: no frame can be decoded. Copy or export the video again.")
    keep(best)
    return placed, [fault] if fault else []


@dataclass(frozen=True)
class _Candidate:
    """A frame that may be the sharpest of its window."""

    window: int
    time: float
    sharpness: float
    picture: Any


def _upright(frame: Any) -> Any:
    """A frame as an upright RGB picture."""
    # The display matrix turns counter-clockwise by this, and so does rotate.
    turn = round(frame.rotation / 90) * 90 % 360
    if frame.colorspace == _UNSPECIFIED and frame.height >= 720:
        # Without naming the matrix, swscale takes BT.601, which no HD camera writes.
        frame = frame.reformat(format="rgb24", src_colorspace=_BT709)
    picture = frame.to_image()
    return picture.rotate(turn, expand=True) if turn else picture


@contextlib.contextmanager
def _opened(video: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its best video stream; whatever is wrong with them is a FormatError."""
    av = _import_av()
    try:
        # Only files: a playlist in disguise must not make this machine call others.
        container = av.open(str(video.resolve()), options={"protocol_whitelist": "file"})
    except av.FFmpegError as error:
        raise FormatError(
            f"{video}: cannot be read as a video ({error.strerror}). Export it as MP4 or MOV again."
        ) from error
    with container:
        if set(container.format.name.split(",")) & set(_PLAYLISTS):
            raise FormatError(f"{video}: is a list of other files ({container.format.name}). Give the video itself.")
        if not container.streams.video:
            raise FormatError(f"{video}: has no video stream. Give a file with pictures in it.")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield container, stream


def _import_av() -> Any:
    try:
        import av
    except ImportError:
        raise MissingExtraError(
            'Reading a video needs PyAV. Install it with: pip install "voxfield[video,photos]".'
        ) from None
    return av
