"""Point clouds to pre-rendered voxels: in parallel, and resumable after being killed.

The output is laid out as `voxfield.storage.prerendered` says. A batch is written under a temporary name and renamed
when it is complete; the metadata is written when all batches are. Each batch carries a hash of the clouds and of all
parameters that matter, so a later run keeps what is as it would make it, makes the rest, and refuses a folder that
holds something else. How many samples are wanted is no such parameter: after a trial with few, the full run makes the
batch anew that the trial left short.
"""

import copy
import dataclasses
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from voxfield.checks import check_bytes, check_range
from voxfield.data.capture import digest
from voxfield.data.point_clouds import PointClouds
from voxfield.distributed.executors import Executor, ExecutorKind, ExecutorSettings, open_executor
from voxfield.distributed.memory import memory_bound, workers_within
from voxfield.errors import InputError, UnavailableError, VoxfieldError
from voxfield.jobs.reporter import Reporter
from voxfield.jobs.value_tally import ValueTally
from voxfield.storage.atomic import replacing, write_json
from voxfield.storage.one_writer import only_writer
from voxfield.storage.prerendered import (
    FAILURES,
    METADATA,
    BatchAbout,
    BatchKind,
    BatchWriter,
    Chunk,
    Compression,
    SampleFacts,
    StoredType,
    batch_name,
    find_batches,
    pack_sample,
    quantise,
    read_batch_about,
    read_metadata,
    write_metadata,
)
from voxfield.voxels.point_grid import (
    PointGridSettings,
    ValueRange,
    cut_values,
    finite_points,
    fitted,
    normalise_values,
    point_grid,
)

_VOXEL_BYTES: Final = 24
"""Of a voxel while its grid is blurred, normalised, cut and compressed."""
_WAITING: Final = 3
"""Compressed samples of a worker that wait to be written."""
_REVISION: Final = 1
"""Raised when the same clouds and parameters give other values than before."""


@dataclass(frozen=True, kw_only=True)
class PrerenderSettings:
    """How clouds are pre-rendered."""

    grid: PointGridSettings = PointGridSettings()
    max_samples: int | None = None
    """Only the first so many; None takes all."""
    batch_size: int = 100
    """Samples a file."""
    compression: Compression = "gzip"
    compression_level: int = 1
    """Of gzip, 1 to 9: 9 takes many times as long and saves little."""
    dtype: StoredType = "float32"
    overwrite: bool = False
    """Remove pre-rendered voxels of other parameters that are in the folder."""
    executor: ExecutorKind = "local"
    """Where samples are rendered: processes of this machine, or a Dask cluster."""
    scheduler: str | None = None
    """Of Dask: its address, or scheduler file."""
    workers: int | None = None
    """Local processes; None is one for each core."""
    memory: int | str | None = None
    """Most memory, in bytes or as ``"8GB"``: fewer processes run where more do not fit. None: what can be spared."""

    def __post_init__(self) -> None:
        if self.max_samples is not None:
            check_range("max_samples", self.max_samples, minimum=1)
        check_range("batch_size", self.batch_size, minimum=1, maximum=100_000)
        check_range("compression_level", self.compression_level, minimum=1, maximum=9)
        if self.memory is not None:
            check_bytes("memory", self.memory)
        _ = self.kind, self.run_on

    @property
    def run_on(self) -> ExecutorSettings:
        """Where samples are rendered."""
        return ExecutorSettings(executor=self.executor, scheduler=self.scheduler, workers=self.workers)

    @property
    def kind(self) -> BatchKind:
        """What the files hold."""
        return BatchKind(
            shape=self.grid.shape, dtype=self.dtype, compression=self.compression, level=self.compression_level
        )


@dataclass(frozen=True, kw_only=True)
class FailedSample:
    """A sample that could not be rendered."""

    index: int
    """Its number in the source."""
    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Prerendered:
    """What a run did."""

    output: Path
    samples: int
    """Samples that are there."""
    made: int
    """Of them, those made by this run."""
    batches: int
    failures: tuple[FailedSample, ...]
    """Also in ``failures.json``."""
    metadata: dict[str, Any]
    """The content of ``metadata.yaml``."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What processes need to know."""

    clouds: PointClouds
    grid: PointGridSettings
    kind: BatchKind
    value_range: ValueRange | None = None


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """A rendered sample, or why not."""

    index: int
    chunk: Chunk | None = None
    facts: SampleFacts | None = None
    tally: ValueTally = dataclasses.field(default_factory=ValueTally)
    reason: str = ""


def prerender(clouds: PointClouds, output: Path, *, settings: PrerenderSettings, progress: Reporter) -> Prerendered:
    """Render clouds to voxels.

    Args:
        clouds: what to render.
        output: folder: new, or from an earlier run.
        settings: how.
        progress: told of everything.

    Raises:
        InputError: the folder holds voxels of other parameters or is being written to, or no sample could be
            rendered, or there is too little memory for one.
        UnavailableError: the disk is full, or a process was killed. What is done is kept.
    """
    settings = _within_memory(clouds, settings, progress)
    with only_writer(output):
        return _prerender(clouds, output, settings, progress)


def _within_memory(clouds: PointClouds, settings: PrerenderSettings, progress: Reporter) -> PrerenderSettings:
    """With as many workers as memory is enough for; what they need is said."""
    voxels, bound = math.prod(settings.grid.shape), memory_bound(settings.memory)
    run_on, need = workers_within(
        bound,
        settings.run_on,
        tasks=len(clouds),
        each=voxels * _VOXEL_BYTES + clouds.most_bytes(),
        waiting=_WAITING * voxels * np.dtype(settings.dtype).itemsize,
        what="grids and clouds",
    )
    bound.check(need, "Take a smaller --voxel-size or smaller clouds")
    progress.say(str(need))
    return settings if settings.executor != "local" else dataclasses.replace(settings, workers=run_on.workers)


def _prerender(clouds: PointClouds, output: Path, settings: PrerenderSettings, progress: Reporter) -> Prerendered:
    total = min(len(clouds), settings.max_samples or len(clouds))
    job = _Job(clouds=clouds, grid=settings.grid, kind=settings.kind)
    with open_executor(settings.run_on, tasks=len(clouds), folders=_folders(clouds)) as executor:
        job = _measured(job, executor, progress)
        parameters = _parameters(job, settings)
        key = digest(json.dumps(parameters, sort_keys=True).encode())
        if settings.overwrite:
            _clear_others(output, key, total)
        done = _check_output(output, key, parameters, total, settings.batch_size)
        if job.grid.voxelization_method == "gaussian" and not job.grid.blurs:
            sigma = " ".join(f"{one:g}" for one in job.grid.sigma_voxels)
            progress.say(f"sigma is {sigma} voxels: below 0.125 the gaussian blurs nothing.")
        starts = range(0, total, settings.batch_size)
        pending = {at: range(at, min(at + settings.batch_size, total)) for at in starts if at not in done}
        if pending:
            # From here on the folder is not what the metadata says.
            (output / METADATA).unlink(missing_ok=True)
        for stale in output.glob(".voxels_batch_*.partial"):
            stale.unlink(missing_ok=True)
        made = 0
        with progress.stage("Rendering", sum(map(len, pending.values())), "samples") as stage:
            for at, wanted in pending.items():
                path = output / batch_name(at // settings.batch_size)
                attributes = {"parameters_hash": key, "first": wanted.start, "stop": wanted.stop}
                samples = (sample for _, sample in executor.run(partial(_render, job), wanted, ordered=True))
                report, count = _write_batch(path, job, samples, attributes, len(wanted), stage)
                made += count
                progress.say(_batch_line(path, report, count))
    return _conclude(output, job, settings, parameters, key, total, made)


# ----------------------------------------------------------------------------------------------------------- samples


def _folders(clouds: PointClouds) -> list[Path]:
    """Where the clouds are."""
    return sorted({path.absolute().parent for path in clouds.paths})


def _corners(job: _Job, index: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The box about a cloud; None for one that cannot be read, which rendering will report."""
    try:
        points = finite_points(job.clouds.read(index))
    except VoxfieldError:
        return None
    return points.min(0), points.max(0)


def _value_range(job: _Job, index: int) -> ValueRange | None:
    """Least and greatest value of a sample; None as for `_corners`."""
    try:
        return point_grid(job.clouds.read(index), job.grid).value_range
    except VoxfieldError:
        return None


def _render(job: _Job, index: int) -> _Sample:
    """Read, voxelise, normalise and compress a cloud."""
    try:
        counted = point_grid(job.clouds.read(index), job.grid)
        source_range = counted.value_range
        tally = ValueTally()
        values = counted.values
        normalise_values(values, job.grid, job.value_range)
        tally.count(values)
        cut_values(values, job.grid)
        stored, scale, error = quantise(values, job.kind.dtype)
        tally.kept, tally.worst_error = int(np.count_nonzero(stored)), error
        facts = SampleFacts(
            index=index,
            scale=scale,
            source_range=source_range,
            stored_range=(float(stored.min()) * scale, float(stored.max()) * scale),
            points=counted.points,
            outside=counted.outside,
        )
        return _Sample(index=index, chunk=pack_sample(stored, job.kind), facts=facts, tally=tally)
    except MemoryError:
        return _Sample(index=index, reason="needs more memory than there is.")
    except VoxfieldError as error:
        return _Sample(index=index, reason=str(error))


# --------------------------------------------------------------------------------------------------------------- run


def _measured(job: _Job, executor: Executor, progress: Reporter) -> _Job:
    """With the volume and the range of values known, from all clouds where they have to be measured.

    All, however few are rendered: a trial's values are then those of the full run.
    """
    indices = range(len(job.clouds))
    if job.grid.volume_dims is None:
        with progress.stage("Measuring the volume", len(indices), "samples") as stage:
            corners = []
            for _, found in executor.run(partial(_corners, job), indices):
                stage.advance()
                if found is not None:
                    corners.append(found)
        job = dataclasses.replace(job, grid=fitted(job.grid, corners))
        low, high = job.grid.low, job.grid.high
        progress.say(
            "The volume is the box about all points: "
            + " x ".join(f"{least:g} to {most:g}" for least, most in zip(low, high, strict=True))
        )
    if job.grid.normalise == "global":
        with progress.stage("Measuring values", len(indices), "samples") as stage:
            ranges = []
            for _, measured in executor.run(partial(_value_range, job), indices):
                stage.advance()
                if measured is not None:
                    ranges.append(measured)
        if ranges:
            least, most = min(low for low, _ in ranges), max(high for _, high in ranges)
            job = dataclasses.replace(job, value_range=(least, most))
    return job


def _parameters(job: _Job, settings: PrerenderSettings) -> dict[str, Any]:
    """All that decides what is in the files, in the types JSON has."""
    return {
        "revision": _REVISION,
        **json.loads(json.dumps(dataclasses.asdict(job.grid))),
        "value_range": None if job.value_range is None else list(job.value_range),
        "batch_size": settings.batch_size,
        "compression": settings.compression,
        **({"compression_level": settings.compression_level} if settings.compression == "gzip" else {}),
        "dtype": settings.dtype,
        "source": job.clouds.fingerprint(),
    }


def _clear_others(output: Path, key: str, total: int) -> None:
    """Remove pre-rendered voxels of other parameters, and of more samples than wanted."""
    for path in find_batches(output):
        try:
            about = read_batch_about(path)
            fits = about.parameters_hash == key and int(about.attributes["stop"]) <= total
        except VoxfieldError:
            fits = False
        if not fits:
            (output / METADATA).unlink(missing_ok=True)
            path.unlink()


def _check_output(output: Path, key: str, parameters: dict[str, Any], total: int, batch_size: int) -> set[int]:
    """First samples of the batches that are there as wanted.

    Raises:
        InputError: batches of other parameters, or of more samples than wanted.
    """
    done = set()
    for path in find_batches(output):
        try:
            about = read_batch_about(path)
        except VoxfieldError:
            # Damaged: made again.
            continue
        if about.parameters_hash != key:
            said = _difference(output, parameters)
            raise InputError(
                f"{output}: holds voxels rendered {said}. Name another folder, or remove them with --overwrite."
            )
        first, stop = int(about.attributes["first"]), int(about.attributes["stop"])
        if stop > total:
            raise InputError(
                f"{output}: holds more than the {total:,} samples wanted, of the same parameters. Leave out "
                "--max-samples, or name another folder for a trial."
            )
        if path.name == batch_name(first // batch_size) and stop == min(first + batch_size, total):
            done.add(first)
    return done


def _difference(output: Path, parameters: dict[str, Any]) -> str:
    """In what the voxels in a folder differ, as far as it is known."""
    try:
        there = read_metadata(output).get("parameters")
    except VoxfieldError:
        there = None
    if not isinstance(there, dict):
        return "with other parameters or from other points"
    differing = [name for name in {**there, **parameters} if there.get(name) != parameters.get(name)]
    said = [
        "from other points" if name == "source" else f"with {name}={there.get(name)}, not {parameters.get(name)}"
        for name in differing
    ]
    return ", ".join(said) or "by another version"


def _write_batch(
    path: Path, job: _Job, samples: Iterator[_Sample], attributes: dict[str, Any], most: int, stage: Any
) -> tuple[dict[str, Any], int]:
    """Write the samples of a batch as they come; returns the report and how many there are. No file if none."""
    tally, failures, count = ValueTally(), [], 0
    writer: BatchWriter | None = None
    try:
        with replacing(path) as temporary, BatchWriter(temporary, job.kind, attributes, most) as writer:
            for sample in samples:
                if sample.chunk is None or sample.facts is None:
                    name = job.clouds.name(sample.index)
                    failures.append({"index": sample.index, "name": name, "reason": sample.reason})
                else:
                    writer.add(sample.chunk, sample.facts)
                    tally.add(sample.tally)
                    count += 1
                stage.advance(note=job.clouds.name(sample.index))
            report = {"failures": failures, "tally": tally.plain()}
            writer.finish(report)
    except (OSError, RuntimeError) as error:
        # HDF5 raises the latter where it closes a file.
        if isinstance(error, VoxfieldError):
            raise
        raise UnavailableError(
            f"{path}: cannot be written ({getattr(error, 'strerror', None) or error}). What is done is kept: free "
            "space, and run the same command again."
        ) from error
    if count == 0:
        # Readers expect samples in a file.
        path.unlink()
    return report, count


def _batch_line(path: Path, report: dict[str, Any], count: int) -> str:
    tally = ValueTally.from_plain(report["tally"])
    failed = f", {len(report['failures'])} failed" if report["failures"] else ""
    return (
        f"{path.name}: {count} samples{failed}; {tally.share_kept:.2%} of the voxels are not 0 "
        f"({tally.share_not_zero:.2%} before the threshold)"
    )


def _conclude(
    output: Path,
    job: _Job,
    settings: PrerenderSettings,
    parameters: dict[str, Any],
    key: str,
    total: int,
    made: int,
) -> Prerendered:
    """Metadata and failures, from what the batches say of themselves."""
    abouts = [read_batch_about(path) for path in find_batches(output)]
    present = {int(index) for about in abouts for index in about.indices}
    reasons = {item["index"]: FailedSample(**item) for about in abouts for item in about.report["failures"]}
    for index in range(total):
        if index not in present and index not in reasons:
            # All samples of its batch failed, so no file says why.
            again = _render(job, index)
            reasons[index] = FailedSample(index=index, name=job.clouds.name(index), reason=again.reason)
    failures = tuple(reasons[index] for index in sorted(reasons))
    if failures:
        write_json(output / FAILURES, [dataclasses.asdict(item) for item in failures])
    else:
        (output / FAILURES).unlink(missing_ok=True)
    if not present:
        raise InputError(
            f"{output}: none of {total} samples could be rendered; {failures[0].name}: {failures[0].reason}"
        )
    metadata = _metadata(job, settings, parameters, key, abouts, failures)
    write_metadata(output, metadata)
    return Prerendered(
        output=output,
        samples=len(present),
        made=made,
        batches=len(abouts),
        failures=failures,
        metadata=metadata,
    )


def _metadata(
    job: _Job,
    settings: PrerenderSettings,
    parameters: dict[str, Any],
    key: str,
    abouts: Sequence[BatchAbout],
    failures: Sequence[FailedSample],
) -> dict[str, Any]:
    """The keys that other readers know come first."""
    tally = ValueTally()
    for about in abouts:
        tally.add(ValueTally.from_plain(about.report["tally"]))
    ranges = np.concatenate([about.stored_ranges for about in abouts if about.stored_ranges is not None])
    threshold, left = tally.suggested_threshold()
    paths, sides = job.clouds.paths, job.grid.sides
    return {
        "source_h5": str(paths[0]) if len(paths) == 1 else os.path.commonpath([path.absolute() for path in paths]),
        "data_key": job.clouds.data_key,
        "voxel_size": sides[0] if len(set(sides)) == 1 else list(sides),
        **{
            # Copies: YAML would write the second mention of a list as a reference to the first.
            name: copy.copy(parameters[name])
            for name in ("voxelization_method", "sigma", "volume_dims", "padding", "threshold", "precision")
        },
        "total_samples": sum(len(about.indices) for about in abouts),
        "batch_size": settings.batch_size,
        "format_version": 1,
        "axes": "zyx",
        "parameters_hash": key,
        "parameters": parameters,
        "batches": {about.path.name: len(about.indices) for about in abouts},
        "failed_samples": [item.index for item in failures],
        "value_range": [float(ranges[:, 0].min()), float(ranges[:, 1].max())],
        "largest_storage_error": tally.worst_error,
        "share_not_zero": tally.share_kept,
        "share_not_zero_before_threshold": tally.share_not_zero,
        "suggested_threshold": threshold,
        "suggested_threshold_share_not_zero": left,
    }
