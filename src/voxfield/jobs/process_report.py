"""What became of photographs or a video: the result of a call, and ``process.json``, the report that stays."""

import dataclasses
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import voxfield
from voxfield.jobs.photographs import PlacedPicture
from voxfield.jobs.reconstruct import Matching
from voxfield.storage.atomic import write_json
from voxfield.storage.skipped import Skipped


@dataclass(frozen=True, kw_only=True)
class ProcessedPhotos:
    """What became of photographs or a video."""

    output: Path
    """The capture's folder."""
    registered: tuple[str, ...]
    """Pictures with a pose, by name below ``images``."""
    unregistered: tuple[str, ...]
    """Pictures without, or with one that rests on too few points to be trusted."""
    skipped: tuple[Skipped, ...]
    """Files that could not be read, and pictures that the capture had no place for."""
    blurred: dict[str, float]
    """Blurred pictures to their sharpness as a share of the median, the most blurred first."""
    dropped: bool
    """Whether the blurred ones were left out."""
    models: tuple[int, ...]
    """Pictures of every reconstruction found, the largest, which is the one kept, first."""
    points: int
    """Triangulated points."""
    reprojection_error: float
    """Mean over the points, pixels."""
    cameras: tuple[dict[str, Any], ...]
    """COLMAP's model, size and parameters of every camera."""
    focal_from_exif: bool
    """Whether the files said a focal length to start from."""
    matching: Matching
    """Which pairs were compared."""

    @property
    def complete(self) -> bool:
        """Whether every picture is in the capture."""
        return not self.unregistered and not self.skipped


def gather_result(
    output: Path,
    names: Sequence[str],
    models: Sequence[Mapping[str, Any]],
    *,
    skipped: Sequence[Mapping[str, str]],
    blurred: dict[str, float],
    dropped: bool,
    features: Mapping[str, Any],
    matching: Matching,
) -> ProcessedPhotos:
    """What the stages say, together.

    Args:
        output: the capture's folder.
        names: pictures that were to be placed.
        models: of `voxfield.jobs.colmap_worker.reconstruct`; the first is kept.
        skipped: files and pictures left out, as dictionaries of `Skipped`.
        blurred: blurred pictures to their share of the median.
        dropped: whether the blurred ones were left out of ``names``.
        features: the result of `voxfield.jobs.colmap_worker.extract`.
        matching: which pairs were compared.
    """
    kept = models[0]
    registered = set(kept["registered"])
    return ProcessedPhotos(
        output=output,
        registered=tuple(name for name in names if name in registered),
        unregistered=tuple(name for name in names if name not in registered),
        skipped=tuple(Skipped(**item) for item in skipped),
        blurred=blurred,
        dropped=dropped,
        models=tuple(len(model["registered"]) for model in models),
        points=kept["points"],
        reprojection_error=kept["reprojection_error"],
        cameras=tuple(kept["cameras"]),
        focal_from_exif=features["focal_from_exif"],
        matching=matching,
    )


def write_report(
    file: Path,
    result: ProcessedPhotos,
    *,
    source: Path,
    kind: str,
    settings: Mapping[str, Any],
    placed: Sequence[PlacedPicture],
    matches: Mapping[str, Any],
    seconds: Mapping[str, float | None],
) -> None:
    """Write ``process.json``.

    Args:
        file: where.
        result: what became of the pictures.
        source: the folder of photographs, or the video.
        kind: ``images`` or ``video``.
        settings: of the call, by name.
        placed: all pictures in ``images``, the dropped ones included.
        matches: the result of `voxfield.jobs.colmap_worker.match`.
        seconds: time of every stage.
    """
    sharpness = {item.name: item.sharpness for item in placed}
    names = ("voxfield", "python", "pycolmap", "pillow", *(("av",) if kind == "video" else ()))
    write_json(
        file,
        {
            "schema": 1,
            "source": str(source.resolve()),
            "kind": kind,
            "settings": settings,
            "pictures": len(placed),
            "registered": len(result.registered),
            "unregistered": result.unregistered,
            "skipped": [dataclasses.asdict(item) for item in result.skipped],
            "blurred": [
                {"name": name, "sharpness": sharpness[name], "share_of_median": share}
                for name, share in result.blurred.items()
            ],
            "blurred_dropped": result.dropped,
            "matching": result.matching,
            "pairs": matches["pairs"],
            "verified_pairs": matches["verified_pairs"],
            "models": result.models,
            "points": result.points,
            "mean_reprojection_error": result.reprojection_error,
            "focal_from_exif": result.focal_from_exif,
            "cameras": result.cameras,
            "sharpness": sharpness,
            "sources": {item.name: item.source for item in placed},
            "seconds": seconds,
            "versions": {name: version_of(name) for name in names},
        },
    )


def version_of(name: str) -> str:
    """Version of this package, of Python, or of an installed distribution."""
    if name == "voxfield":
        return voxfield.__version__
    return platform.python_version() if name == "python" else importlib.metadata.version(name)
