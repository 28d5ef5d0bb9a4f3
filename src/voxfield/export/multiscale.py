"""The multi-scale Blender benchmark of mip-NeRF and PyNeRF, made from NeRF-synthetic data.

Every picture is written at several scales, with one ``metadata.json`` of a table per split: ``file_path``,
``cam2world``, ``width``, ``height``, ``focal``, ``pix2cam``, ``label`` (which scale, from 0), ``lossmult`` (its factor
squared), ``near`` and ``far``. mip-NeRF's converter averages the files' straight colours, which darkens silhouettes;
here colours are premultiplied by alpha, as what a coarser camera would have seen. Source of the layout:
https://github.com/google/mipnerf/blob/main/scripts/convert_blender_data.py.

The work can be stopped and done again: pictures that are there are kept, the table comes last. ``multiscale.json`` says
what the folder is made of, and one made of something else is refused.
"""

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import torch

from voxfield.checks import check_range
from voxfield.data.capture import SPLITS, CaptureOptions, Split, is_file
from voxfield.data.capture_reading import read_capture
from voxfield.data.formats import blender
from voxfield.data.formats.pynerf import FILE_NAME
from voxfield.data.posed_images import PosedImages
from voxfield.data.scales import check_scales
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.render.image import write_png
from voxfield.storage.atomic import write_json
from voxfield.storage.skipped import Skipped

RECORD_NAME: Final = "multiscale.json"
SCENE_RADIUS: Final = 1.5
"""What lies within this distance of the origin must lie between near and far for every camera."""


class Shown(Protocol):
    """A progress display of like pieces."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """``count`` more pieces are done."""


@dataclass(frozen=True, kw_only=True)
class MultiScale:
    """What was written."""

    file: Path
    """The ``metadata.json``."""
    images: dict[str, int]
    """Images by split, each at all scales."""
    written: int
    """Pictures written now."""
    present: int
    """Pictures that were there already."""
    left_out: tuple[Skipped, ...]
    """Pictures that could not be used, with reasons."""


def write_multiscale(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    scales: Sequence[int] = (1, 2, 4, 8),
    near: float = 2.0,
    far: float = 6.0,
    stage: Callable[[str, int, str], AbstractContextManager[Shown | None]] = lambda *_: nullcontext(),
) -> MultiScale:
    """Write NeRF-synthetic data at several scales, as mip-NeRF's multi-scale Blender benchmark.

    Args:
        data: a folder with ``transforms_train.json``, ``transforms_val.json`` and ``transforms_test.json``, or some.
        output: folder of the benchmark: new, empty, or left by an earlier call with the same arguments.
        scales: whole factors, rising, that divide the pictures.
        near, far: distances between which rays are sampled, world units: the benchmark's own, for cameras about 4 from
            the origin.
        stage: shows the work, given its name, the number of pieces and what they are, such as ``Progress.stage``.

    Returns:
        What was done.

    Raises:
        InputError: scales that do not fit, ``near`` and ``far`` that cut the scene off, or an ``output`` made of other
            data or by other arguments.
        MissingFileError, FormatError: data that is absent or cannot be read.
    """
    check_scales(scales)
    check_range("near", near, minimum=0.0)
    check_range("far", far, above=near)
    folder = Path(output)
    captures = _read_splits(Path(data), tuple(scales))
    for capture in captures.values():
        _check_distances(capture, near, far)
    _check_record(folder, Path(data), captures, tuple(scales), near, far)
    left_out: dict[str, Skipped] = {item.path: item for capture in captures.values() for item in capture.skipped}
    names = {split: _file_names(split, capture) for split, capture in captures.items()}
    missing = {
        split: [index for index, name in enumerate(listed) if not is_file(folder / name)]
        for split, listed in names.items()
    }
    table, written = {}, 0
    with stage("Reducing pictures", sum(map(len, missing.values())), "pictures") as shown:
        for split, capture in captures.items():
            done = _write_pictures(capture, folder, names[split], missing[split], shown)
            written += len(done)
            broken = set(missing[split]) - done
            left_out |= {item.path: item for item in capture.images.failures}
            there = [index for index in range(len(capture)) if index not in broken]
            if not there:
                raise FormatError(f"{data}: none of the {split} pictures can be read: {left_out.popitem()[1].reason}")
            table[split] = _table(capture, names[split], there, near, far)
    write_json(folder / FILE_NAME, table)
    return MultiScale(
        file=folder / FILE_NAME,
        images={split: len(columns["file_path"]) // len(scales) for split, columns in table.items()},
        written=written,
        present=sum(len(columns["file_path"]) for columns in table.values()) - written,
        left_out=tuple(left_out.values()),
    )


def _read_splits(data: Path, scales: tuple[int, ...]) -> dict[Split, PosedImages]:
    """Every split that has a file of its own."""
    root = data if data.is_dir() else data.parent
    if not blender.recognises(data):
        raise MissingFileError(
            f"{data}: expected NeRF-synthetic data, with transforms_train.json, transforms_val.json and "
            "transforms_test.json. For other captures set capture.scales when training."
        )
    options = CaptureOptions(format="blender", downscale=1, scales=scales)
    found: list[Split] = [split for split in SPLITS if is_file(root / f"transforms_{split}.json")]
    return {split: read_capture(root, split=split, options=options) for split in found}


def _check_distances(captures: PosedImages, near: float, far: float) -> None:
    distances = captures.cameras.origins.norm(dim=1)
    for bad in ((distances - near < SCENE_RADIUS) | (far - distances < SCENE_RADIUS)).nonzero()[:, 0].tolist():
        raise InputError(
            f"{captures.names[bad]}: its camera stands {float(distances[bad]):.3g} from the origin, so near {near:g} "
            f"and far {far:g} cut off what lies within {SCENE_RADIUS:g} of it. Give other --near and --far."
        )


def _check_record(
    folder: Path, data: Path, captures: dict[Split, PosedImages], scales: tuple[int, ...], near: float, far: float
) -> None:
    """Write down what the folder is made of, or refuse one that is made of something else."""
    made_of = {
        "hashes": {split: capture.source["hash"] for split, capture in captures.items()},
        "scales": list(scales),
        "near": near,
        "far": far,
    }
    path = folder / RECORD_NAME
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        # What a call that was killed here left is none of the other files.
        if folder.is_dir() and any(not path.name.endswith(".partial") for path in folder.iterdir()):
            raise InputError(f"{folder}: holds other files. Name a new folder.") from None
        write_json(path, {"source": str(data), "made_of": made_of})
        return
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{path}: cannot be read ({error}). Remove the folder, or name another.") from None
    if not isinstance(there, dict) or there.get("made_of") != made_of:
        raise InputError(
            f"{folder}: was made of other pictures or with other options (see {RECORD_NAME}). Remove it, or name "
            "another."
        )


def _file_names(split: str, captures: PosedImages) -> list[str]:
    """Where each picture goes: by its name, with its number in front where two share it, and its scale."""
    scales = captures.scales
    assert scales is not None, "captures are read at several scales"
    labels = [scales.values.index(factor) for factor in scales.factor.tolist()]
    stems = [Path(name).stem for name in captures.names]
    # Some file systems take A.png and a.png for one file.
    shared = Counter((stem.lower(), label) for stem, label in zip(stems, labels, strict=True))
    return [
        f"images_{split}/{stem if shared[stem.lower(), label] == 1 else f'{image:05d}_{stem}'}_d{label}.png"
        for stem, label, image in zip(stems, labels, scales.image.tolist(), strict=True)
    ]


def _write_pictures(
    captures: PosedImages, folder: Path, names: Sequence[str], missing: Sequence[int], shown: Shown | None
) -> set[int]:
    """Write the ``missing`` pictures; returns which of them could be."""
    done: set[int] = set()
    lock = threading.Lock()

    def receive(position: int, decoded: tuple[torch.Tensor, torch.Tensor | None] | None) -> None:
        index = missing[position]
        if decoded is not None:
            write_png(folder / names[index], decoded[0])
        with lock:
            if decoded is not None:
                done.add(index)
            if shown is not None:
                shown.advance(1, names[index])

    captures.images.decode_many(missing, receive)
    return done


def _table(
    captures: PosedImages, names: Sequence[str], there: Sequence[int], near: float, far: float
) -> dict[str, list[Any]]:
    """The columns of one split."""
    scales, cameras = captures.scales, captures.cameras
    assert scales is not None, "captures are read at several scales"
    below = torch.tensor([0.0, 0.0, 0.0, 1.0])
    columns: dict[str, list[Any]] = {}
    for index in there:
        width, height = int(cameras.width[index]), int(cameras.height[index])
        focal = float(cameras.focal[index, 0])
        row = {
            "file_path": names[index],
            "cam2world": torch.cat([cameras.camera_to_world[index], below[None]]).tolist(),
            "width": width,
            "height": height,
            "focal": focal,
            # From pixels to points one unit before the camera, as mip-NeRF's loader wants them.
            "pix2cam": [[1 / focal, 0.0, -width / 2 / focal], [0.0, -1 / focal, height / 2 / focal], [0.0, 0.0, -1.0]],
            "label": scales.values.index(int(scales.factor[index])),
            "near": near,
            "far": far,
            "lossmult": float(scales.weight[index]),
        }
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return columns
