"""Plain photographs or a video to a capture with poses: pictures, features, matches, model, report.

    output/
      images/            the pictures, upright; images_2, images_4, ... by option
      sparse/0/          COLMAP's model with the most pictures
      transforms.json    the same poses and lenses for nerfstudio, with the lists of the splits
      process.json       the report
      colmap/            what a later run continues from: stages.json, database.db, models/, log.txt

Every stage is recorded with a digest of its parameters and of the source files' names, sizes and times: what is done is
not done again, what is stale is, and the person is told. ``transforms.json`` is written by the caller's writer.
"""

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from voxfield.checks import check_choice, check_range
from voxfield.data.capture import digest
from voxfield.distributed.memory import MemoryNeed, MemoryPart, memory_bound, need_of, process_part
from voxfield.errors import InputError, MissingFileError
from voxfield.jobs.photographs import (
    PHOTOGRAPH_SUFFIXES,
    PlacedPicture,
    find_photographs,
    place_photographs,
    write_reduced,
)
from voxfield.jobs.process_report import ProcessedPhotos, gather_result, version_of, write_report
from voxfield.jobs.reconstruct import Matching, pairs_to_match, require_colmap, run_colmap
from voxfield.jobs.reporter import Reporter
from voxfield.jobs.sharpness import find_blurred
from voxfield.jobs.stage_ledger import StageLedger
from voxfield.jobs.video_frames import FrameSchedule, place_frames, plan_frames, require_video_reading
from voxfield.storage.skipped import Skipped

Kind = Literal["images", "video"]
CameraModelName = Literal[
    "SIMPLE_PINHOLE",
    "PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "OPENCV",
    "OPENCV_FISHEYE",
    "SIMPLE_RADIAL_FISHEYE",
    "RADIAL_FISHEYE",
]
"""COLMAP's models that a capture can hold; https://colmap.github.io/cameras.html."""

FEWEST_PICTURES: Final = 3
MOST_FOR_EXHAUSTIVE: Final = 200
"""Up to so many photographs ``matching="auto"`` compares all pairs: 19,900."""

_STAGES: Final = ("pictures", "features", "matches", "models", "capture")
_TITLES: Final = {
    "pictures": "the photographs or their options",
    "features": "the camera model or the options of features",
    "matches": "the matching",
    "models": "the reconstruction",
    "capture": "what is held out",
}
_REPORT: Final = "process.json"
_TRANSFORMS: Final = "transforms.json"


@dataclass(frozen=True, kw_only=True)
class PhotoSettings:
    """How photographs or a video become a capture."""

    frames: int = 150
    """Frames taken of a video, evenly spread in time, the sharpest of each window; 3 to 10,000."""
    drop_blurred: bool = False
    """Leave blurred pictures out; they are named either way."""
    camera_model: CameraModelName = "OPENCV"
    """COLMAP's lens model."""
    cameras: Literal["shared", "own"] = "shared"
    """``shared``: pictures of one size and EXIF focal length share a camera; ``own``: each has its own."""
    matching: Literal["auto", "exhaustive", "sequential"] = "auto"
    """Which pictures are compared, see `voxfield.jobs.reconstruct.pairs_to_match`. ``auto``: sequential for a video and
    for more than `MOST_FOR_EXHAUSTIVE` photographs, whose names then say their order."""
    max_size: int = 1600
    """Pixels of the longest side at which features are looked for, 100 to 20,000."""
    features: int = 4096
    """Most features of a picture, 100 to 100,000; time grows with its square."""
    reduced: int = 0
    """Write copies reduced by 2, 4, ... 2^``reduced`` into images_2, images_4, ...; 0 to 6."""
    eval_every: int = 8
    """Hold out every so many-th registered picture, at least 2."""
    seed: int = 42
    """Of every random choice, 0 or above: the same seed gives the same capture on the same machine."""

    def __post_init__(self) -> None:
        check_range("frames", self.frames, minimum=FEWEST_PICTURES, maximum=10_000)
        check_choice("camera_model", self.camera_model, get_args(CameraModelName))
        check_choice("cameras", self.cameras, ("shared", "own"))
        check_choice("matching", self.matching, ("auto", "exhaustive", "sequential"))
        check_range("max_size", self.max_size, minimum=100, maximum=20_000)
        check_range("features", self.features, minimum=100, maximum=100_000)
        check_range("reduced", self.reduced, minimum=0, maximum=6)
        check_range("eval_every", self.eval_every, minimum=2)
        check_range("seed", self.seed, minimum=0, maximum=2**31 - 1)


_FEATURE_BYTES: Final = 300
"""Of a pixel while COLMAP looks for features in a picture as large as they are looked for at. Measured."""
_COLMAP_BYTES: Final = 300_000_000
"""Of COLMAP's process: its libraries, the features that are compared and the model of some hundred pictures."""
CaptureWriter = Callable[[Path, int], Sequence[Skipped]]
"""Writes ``transforms.json`` beside ``sparse/0`` in a folder, holding out every so many-th picture; returns what it had
to leave out. Given by the caller, as writers of captures are no business of jobs."""


def process_photos(
    source: Path,
    output: Path,
    *,
    kind: Kind,
    settings: PhotoSettings,
    write_capture: CaptureWriter,
    progress: Reporter,
    memory: int | str | None = None,
) -> ProcessedPhotos:
    """Photographs or a video to a capture with poses.

    Args:
        source: folder of photographs (subfolders included), or the video.
        output: folder of the capture: a new or empty one, or one that an earlier call made.
        kind: what ``source`` is.
        settings: how.
        write_capture: writes ``transforms.json``.
        progress: told of everything.
        memory: most memory, in bytes or as ``"8GB"``; None: what there is to spare.

    Raises:
        InputError: too little memory; ``output`` holds other files, lies in ``source`` or the reverse, or cannot be
            written to; too few pictures; no reconstruction.
        MissingFileError: ``source`` does not exist. FormatError: it cannot be read.
        MissingExtraError: pycolmap or, for a video, PyAV is missing. UnavailableError: pycolmap failed.
    """
    require_colmap()
    if kind == "video":
        require_video_reading()
    files = _source_files(source, kind)
    _check_output(source, output)
    schedule = plan_frames(source, settings.frames) if kind == "video" else None
    _check_count(source, len(files) if schedule is None else schedule.windows, "photograph" if files else "frame")
    threads = _threads_within(memory, settings, progress)
    try:
        (output / "colmap").mkdir(parents=True, exist_ok=True)
        job = _Job(source, output, files, schedule, settings, write_capture, progress, threads)
    except OSError as error:
        raise InputError(f"{output}: cannot be written to ({error.strerror}). Name another --output.") from error
    return job.run()


def _threads_within(memory: int | str | None, settings: PhotoSettings, progress: Reporter) -> int:
    """In how many pictures features may be looked for at a time; what that needs is said.

    Raises:
        InputError: there is too little memory for one.
    """
    bound = memory_bound(memory)
    each = settings.max_size**2 * _FEATURE_BYTES

    def need(count: int) -> MemoryNeed:
        return need_of(
            MemoryPart(what=f"{count} pictures in which features are looked for", size=count * each),
            MemoryPart(what="COLMAP", size=_COLMAP_BYTES),
            process=process_part(kernels=False),
        )

    threads = bound.most(os.cpu_count() or 1, need)
    bound.check(need(threads), "Look for features in smaller pictures (--max-size)")
    progress.say(str(need(threads)))
    return threads


def _source_files(source: Path, kind: Kind) -> list[Path]:
    """The photographs; for a video nothing, when it is there."""
    if not source.exists():
        raise MissingFileError(f"{source}: no such file or folder.")
    if kind == "video":
        if not source.is_file():
            raise InputError(f"{source}: expected a video file, got a folder. For photographs: capture process images.")
        return []
    if not source.is_dir():
        raise InputError(
            f"{source}: expected a folder of photographs, got a file. Name the folder, or, "
            "of a video: capture process video."
        )
    files = find_photographs(source)
    if not files:
        raise InputError(f"{source}: holds no photographs (known endings: {' '.join(PHOTOGRAPH_SUFFIXES)}).")
    return files


def _check_count(source: Path, count: int, what: str) -> None:
    if count < FEWEST_PICTURES:
        raise InputError(
            f"{source}: has {count} usable {what}{'' if count == 1 else 's'}, expected at least {FEWEST_PICTURES} from "
            "different places, better 30 or more."
        )


def _check_output(source: Path, output: Path) -> None:
    """Raise InputError unless ``output`` is new, empty or ours, and apart from ``source``."""
    given, target = source.resolve(), output.resolve()
    if source.is_dir() and target.is_relative_to(given):
        raise InputError(f"{output}: lies in {source}, whose pictures it would be mixed with. Name another --output.")
    if given.is_relative_to(target):
        raise InputError(f"{output}: holds {source} itself. Name another --output.")
    try:
        if output.exists() and not output.is_dir():
            raise InputError(f"{output}: is a file. Name a folder with --output.")
        ours = (output / "colmap" / "stages.json").is_file()
        if output.is_dir() and any(output.iterdir()) and not ours:
            raise InputError(f"{output}: holds other files already. Name a new or empty folder with --output.")
    except OSError as error:
        raise InputError(f"{output}: cannot be used ({error.strerror}). Name another --output.") from error


class _Job:
    """One call: the stages in order, each from the ledger where it is done."""

    def __init__(
        self,
        source: Path,
        output: Path,
        files: list[Path],
        schedule: FrameSchedule | None,
        settings: PhotoSettings,
        write_capture: CaptureWriter,
        progress: Reporter,
        threads: int,
    ) -> None:
        self.threads = threads
        self.source, self.output, self.files, self.schedule = source, output, files, schedule
        self.settings, self.write_capture, self.progress = settings, write_capture, progress
        self.images = output / "images"
        self.work = output / "colmap"
        self.database = self.work / "database.db"
        self.ledger = StageLedger(self.work / "stages.json")
        self.keys = self._stage_keys()
        self.worked = False
        """Whether any stage had to be done."""

    def run(self) -> ProcessedPhotos:
        began = self.ledger.started
        self._announce_stale()
        pictures = self._stage("pictures", self._place, self._pictures_there)
        placed = [PlacedPicture(**item) for item in pictures["placed"]]
        blurred = find_blurred({item.name: item.sharpness for item in placed})
        names = [item.name for item in placed if not (self.settings.drop_blurred and item.name in blurred)]
        _check_count(self.source, len(names), "picture")
        matching = self._matching(len(names))
        features = self._stage("features", lambda same: self._extract(names, same), self.database.is_file)
        matches = self._stage("matches", lambda same: self._match(names, matching, same), self.database.is_file)
        found = self._stage("models", lambda _: self._reconstruct(names), self._model_there)
        models = found["models"]
        if not models:
            impossible = found.get("impossible_lenses", 0)
            raise InputError(_why_nothing(self.source, features["features"], matches["verified_pairs"], impossible))
        self._reduce(names)
        capture = self._stage("capture", lambda _: self._write_capture(), (self.output / _TRANSFORMS).is_file)
        result = gather_result(
            self.output,
            names,
            models,
            skipped=[*pictures["skipped"], *capture["left_out"]],
            blurred=blurred,
            dropped=self.settings.drop_blurred,
            features=features,
            matching=matching,
        )
        write_report(
            self.output / _REPORT,
            result,
            source=self.source,
            kind="images" if self.schedule is None else "video",
            settings=dataclasses.asdict(self.settings),
            placed=placed,
            matches=matches,
            seconds={stage: (self.ledger.result(stage, self.keys[stage]) or {}).get("seconds") for stage in _STAGES},
        )
        if began and not self.worked:
            self.progress.say(f"{self.output} is up to date: nothing was done again.")
        return result

    def _stage_keys(self) -> dict[str, str]:
        """Every stage's digest; each holds the one before."""
        settings = self.settings
        if self.schedule is None:
            listed = [(path.relative_to(self.source).as_posix(), path.stat()) for path in self.files]
        else:
            listed = [(self.source.name, self.source.stat())]
        source = [(name, about.st_size, about.st_mtime_ns) for name, about in listed]
        own: dict[str, list[Any]] = {
            "pictures": [source, settings.frames if self.schedule is not None else None],
            "features": [
                settings.drop_blurred,
                settings.camera_model,
                settings.cameras,
                settings.max_size,
                settings.features,
                version_of("pycolmap"),
            ],
            "matches": [settings.matching, settings.seed],
            "models": [],
            "capture": [settings.eval_every],
        }
        keys: dict[str, str] = {}
        before = ""
        for stage in _STAGES:
            before = keys[stage] = digest(before.encode(), json.dumps(own[stage]).encode())
        return keys

    def _announce_stale(self) -> None:
        for stage in _STAGES:
            if self.ledger.is_stale(stage, self.keys[stage]):
                self.progress.say(f"Since the last run {_TITLES[stage]} changed: what depends on them is made again.")
                return

    def _stage(self, name: str, work: Callable[[bool], dict[str, Any]], is_there: Callable[[], bool]) -> dict[str, Any]:
        """A stage's result, from the ledger or by doing it; ``work`` is told whether it continues itself."""
        result = self.ledger.result(name, self.keys[name])
        if result is not None and is_there():
            return result
        self.worked = True
        same = self.ledger.begin(name, self.keys[name])
        started = time.monotonic()
        result = {**work(same), "seconds": round(time.monotonic() - started, 2)}
        self.ledger.finish(name, result)
        return result

    # ------------------------------------------------------------------------------------------------ pictures
    def _pictures_there(self) -> bool:
        result = self.ledger.result("pictures", self.keys["pictures"]) or {}
        return all((self.images / item["name"]).is_file() for item in result.get("placed", []))

    def _place(self, _: bool) -> dict[str, Any]:
        self._forget_models()
        self.database.unlink(missing_ok=True)
        for folder in (self.images, *self.output.glob("images_*")):
            shutil.rmtree(folder, ignore_errors=True)
        self.images.mkdir()
        placed: list[PlacedPicture] = []
        skipped: list[Skipped] = []
        if self.schedule is not None:
            with self.progress.stage("Choosing frames", self.schedule.frames, "frames") as stage:
                placed, skipped = place_frames(self.source, self.schedule, self.images, stage.advance)
        else:
            with self.progress.stage("Placing photographs", len(self.files), "photographs") as stage:
                for picture, fault in place_photographs(self.files, self.source, self.images):
                    placed += [picture] if picture is not None else []
                    skipped += [fault] if fault is not None else []
                    stage.advance()
        return {
            "placed": [dataclasses.asdict(item) for item in placed],
            "skipped": [dataclasses.asdict(item) for item in skipped],
        }

    def _reduce(self, names: list[str]) -> None:
        if self.settings.reduced:
            with self.progress.stage("Writing reduced copies", len(names), "pictures") as stage:
                for name in names:
                    write_reduced(self.images, name, self.settings.reduced)
                    stage.advance()

    # ------------------------------------------------------------------------------------------ structure from motion
    def _colmap(self, command: str, title: str, total: int, unit: str, **request: Any) -> dict[str, Any]:
        left = total
        with self.progress.stage(title, total, unit) as stage:

            def advance(count: int) -> None:
                # A picture that is tried in a second model is not counted again.
                nonlocal left
                stage.advance(min(count, left))
                left -= min(count, left)

            return run_colmap(self.work / "log.txt", command, advance, database=str(self.database), **request)

    def _extract(self, names: list[str], same: bool) -> dict[str, Any]:
        settings = self.settings
        self._forget_models()
        if not same:
            self.database.unlink(missing_ok=True)
        return self._colmap(
            "extract",
            "Finding features",
            len(names),
            "pictures",
            images=str(self.images),
            names=names,
            camera_model=settings.camera_model,
            shared=settings.cameras == "shared",
            max_size=settings.max_size,
            features=settings.features,
            threads=self.threads,
        )

    def _match(self, names: list[str], matching: Matching, same: bool) -> dict[str, Any]:
        self._forget_models()
        pairs = pairs_to_match(names, matching)
        return self._colmap(
            "match",
            "Matching",
            len(pairs),
            "pairs",
            pairs=pairs,
            pairs_file=str(self.work / "pairs.txt"),
            seed=self.settings.seed,
            fresh=not same,
        )

    def _reconstruct(self, names: list[str]) -> dict[str, Any]:
        self._forget_models()
        models = self.work / "models"
        shutil.rmtree(models, ignore_errors=True)
        models.mkdir()
        result = self._colmap(
            "reconstruct",
            "Placing cameras",
            len(names),
            "pictures",
            images=str(self.images),
            models=str(models),
            seed=self.settings.seed,
        )
        if result["models"] and result["impossible_lenses"]:
            used = ", ".join(sorted({camera["model"] for camera in result["models"][0]["cameras"]}))
            self.progress.say(
                f"{self.settings.camera_model} lenses came out impossible ({result['impossible_lenses']} models were "
                f"left out): the poses kept are of {used}. More pictures from more directions would tell lenses apart."
            )
        if result["models"]:
            # Copied under another name first: a model is there whole or not at all.
            target = self.output / "sparse" / "0"
            partial = target.with_name("0.partial")
            shutil.copytree(models / result["models"][0]["folder"], partial)
            partial.replace(target)
        return result

    def _model_there(self) -> bool:
        result = self.ledger.result("models", self.keys["models"]) or {}
        return not result.get("models") or (self.output / "sparse" / "0" / "images.bin").is_file()

    def _forget_models(self) -> None:
        """Nothing that says poses may outlive the model they came from."""
        for file in (_TRANSFORMS, _REPORT):
            (self.output / file).unlink(missing_ok=True)
        shutil.rmtree(self.output / "sparse", ignore_errors=True)

    def _write_capture(self) -> dict[str, Any]:
        (self.output / _TRANSFORMS).unlink(missing_ok=True)
        left_out = self.write_capture(self.output, self.settings.eval_every)
        return {"left_out": [dataclasses.asdict(item) for item in left_out]}

    def _matching(self, count: int) -> Matching:
        if self.settings.matching != "auto":
            return self.settings.matching
        return "sequential" if self.schedule is not None or count > MOST_FOR_EXHAUSTIVE else "exhaustive"


def _why_nothing(source: Path, features: Mapping[str, int], verified_pairs: int, impossible_lenses: int) -> str:
    if impossible_lenses:
        return (
            f"{source}: no reconstruction: {impossible_lenses} came out, with impossible lenses. Take more "
            "photographs, from more directions, all with one focal length, or try --camera-model SIMPLE_RADIAL."
        )
    bare = sum(count < 50 for count in features.values())
    poor = f"; {bare} have hardly any texture" if bare else ""
    return (
        f"{source}: no reconstruction: {verified_pairs} pairs of the {len(features)} pictures show the same thing"
        f"{poor}. Take sharp photographs that overlap by two thirds, from places apart."
    )
