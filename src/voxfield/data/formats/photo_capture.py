"""What readers of photographs share: telling their files apart, masks beside the photographs, and the capture they make
of the frames they read.

The world of such a capture is laid out from its cameras (``geometry.pose.normalise``) and goes on beyond them. Files
without lists of their own hold out every n-th picture **that exists**, in the order of the frames
(``CaptureOptions.eval_every``).
"""

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from voxfield.data.capture import (
    Capture,
    CaptureOptions,
    Frame,
    Split,
    every_nth,
    is_file,
    is_present,
    resolve_inside,
)
from voxfield.errors import FormatError
from voxfield.geometry.bounds import Bounds
from voxfield.storage.skipped import Skipped

NEAR: Final = 0.05
"""World units; all cameras lie in [-1, 1]^3."""

MASKS: Final = "masks"
"""The folder of masks beside that of photographs."""

MOST_MARK_BYTES: Final = 1 << 26
"""How far into a file a mark is looked for."""

STAND_INS: Final[Mapping[Split, tuple[Split, ...]]] = {
    "train": ("train",),
    "val": ("val", "test"),
    "test": ("test", "val"),
}
"""Val and test stand in for each other where a capture has only one of them."""


def mentions(file: Path, mark: bytes, *, within: int = MOST_MARK_BYTES) -> bool:
    """Whether ``mark`` occurs in the first ``within`` bytes of ``file``: also of one that is cut short or malformed,
    so that its own reader gets to say what is wrong with it.
    """
    try:
        with file.open("rb") as stream:
            return mark in stream.read(within)
    except OSError:
        return False


def mask_names(picture: str) -> tuple[str, ...]:
    """What the mask of a picture may be called, the surest first: ``a.jpg.png`` (COLMAP's own), ``a.png``."""
    return f"{picture}.png", f"{posixpath.splitext(picture)[0]}.png"


def find_mask(root: Path, names: Sequence[str], *, listed_in: str, allow_outside: bool) -> Path | None:
    """The first of ``names`` that is a file in the folder of masks, resolved; None where none is.

    Raises:
        FormatError: it leads outside the data folder, see ``resolve_inside``.
    """
    name = next((name for name in names if is_file(root / MASKS / name)), None)
    if name is None:
        return None
    return resolve_inside(root, f"{MASKS}/{name}", listed_in=listed_in, allow_outside=allow_outside)


def present_frames(
    frames: Sequence[Frame], reduced_only: tuple[int, ...] = ()
) -> tuple[list[int], tuple[Skipped, ...]]:
    """Indices of the frames whose picture is there, at least reduced by one of ``reduced_only``; and the others."""
    present = [index for index, frame in enumerate(frames) if is_present(frame.path, reduced_only)]
    there = set(present)
    missing = (frame for index, frame in enumerate(frames) if index not in there)
    return present, tuple(
        Skipped(path=frame.name, reason=f"{frame.path}: no such file. Restore it or remove its frame.")
        for frame in missing
    )


def plain_name(name: str) -> str:
    """A path as it is compared: ``./a.png`` and ``b/../a.png`` are ``a.png``."""
    return posixpath.normpath(name)


def without_repeats(listed: Iterable[tuple[str, Frame]]) -> tuple[list[Frame], list[Skipped]]:
    """One frame for each picture, in order, and those left out because they say the same again.

    Args:
        listed: frames, each after what starts a message about it: its file and place in it.

    Raises:
        FormatError: a picture has two frames that differ in pose, lens or weight.
    """
    frames: dict[str, Frame] = {}
    repeated: list[Skipped] = []
    for where, frame in listed:
        name, ending = plain_name(frame.name), frame.path.suffix
        first = frames.setdefault(name if name.endswith(ending) else name + ending, frame)
        if first is frame:
            continue
        if (first.pose, first.intrinsics, first.weight) != (frame.pose, frame.intrinsics, frame.weight):
            raise FormatError(
                f"{where}: expected one frame for each picture, got a second one with another pose or lens. Remove the "
                "wrong one."
            )
        repeated.append(Skipped(path=frame.name, reason=f"{where}: repeats an earlier frame. Remove one of the two."))
    return list(frames.values()), repeated


def check_splits(listed: Mapping[Split, Iterable[str]], sources: Mapping[Split, str | Path]) -> None:
    """Raise FormatError where a picture is for training and held out too: it would measure what was learnt by heart.

    Val and test may share theirs.

    Args:
        listed: names of pictures by split, spelt alike.
        sources: what lists them, by split, for the message.
    """
    trained = set(listed.get("train", ()))
    for split in ("val", "test"):
        both = [name for name in listed.get(split, ()) if name in trained]
        if both:
            more = f" and {len(both) - 1} more" if len(both) > 1 else ""
            raise FormatError(
                f"{sources['train']} and {sources[split]} both list {both[0]!r}{more}. Keep each picture in one."
            )


def hold_out(present: Sequence[int], split: Split, options: CaptureOptions) -> tuple[list[int], str]:
    """The split's frames among those ``present`` where the capture has no lists, and the rule that chose them.

    Every ``options.eval_every``-th is val and test alike, starting with the first; the others train.
    """
    chosen = [present[index] for index in every_nth(len(present), split, options.eval_every)]
    return chosen, f"every {options.eval_every}th"


def photo_capture(
    *,
    format: str,  # noqa: A002  (the field's name)
    file: Path,
    root: Path,
    frames: Sequence[Frame],
    left_out: Sequence[Skipped],
    split: Split,
    options: CaptureOptions,
    source: dict[str, object],
    lists: Mapping[str, frozenset[str]] | None = None,
    reduced_only: tuple[int, ...] = (),
) -> Capture:
    """The capture of photographs that a reader has read.

    Args:
        format: the reader's name.
        file: the file that lists the frames.
        root: the data folder.
        frames: in order; pictures need not exist.
        left_out: pictures for which there is no frame, with reasons.
        split: which frames are asked for.
        options: ``eval_every`` is used.
        source: facts for the record, ``json_hash`` among them.
        lists: names of frames by split, where the capture states them; None holds out every n-th picture.
        reduced_only: see ``Capture``.

    Raises:
        FormatError: no frames at all.
    """
    if not frames:
        reason = f" The first: {left_out[0].path}: {left_out[0].reason}" if left_out else ""
        raise FormatError(f"{file}: no picture with a pose in it.{reason or ' Export the capture again.'}")
    present, missing = present_frames(frames, reduced_only)
    if lists is None:
        chosen, rule = hold_out(present, split, options)
    else:
        listed = next((name for name in STAND_INS[split] if lists.get(name)), None)
        wanted = lists[listed] if listed is not None else frozenset[str]()
        chosen = [index for index in present if frames[index].name in wanted]
        rule = f"{listed or split} list"
    return Capture(
        format=format,
        file=file,
        root=root,
        frames=tuple(frames),
        chosen=tuple(chosen),
        missing=(*missing, *left_out),
        normalised=True,
        bounds=Bounds.from_cube(1.0),
        bounds_in_capture=False,
        unbounded=True,
        near=NEAR,
        reduced_only=reduced_only,
        source={"split_rule": rule, **source},
    )
