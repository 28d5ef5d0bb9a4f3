"""Point clouds for generators: rendering them to voxels, and opening what was rendered."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from voxfield.api.places import anywhere
from voxfield.checks import nearest_names
from voxfield.data.point_clouds import PointClouds
from voxfield.data.voxel_datasets import PointCloudVoxelDataset, PrerenderedVoxelDataset, Split, VoxelAugment
from voxfield.errors import FormatError, InputError
from voxfield.jobs.prerender import Prerendered, PrerenderSettings
from voxfield.jobs.prerender import prerender as render
from voxfield.storage.remote import local, published
from voxfield.training.progress import Progress
from voxfield.training.settings import load_config_file, replace_values, to_plain

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_GRID_KEYS: Final = (
    "voxel_size", "voxelization_method", "sigma", "sigma_units", "volume_dims", "volume_origin", "padding", "mode",
    "outside",
)  # fmt: skip
_VALUE_KEYS: Final = ("normalise", "threshold", "precision")
_JOB_KEYS: Final = (
    "max_samples", "batch_size", "compression", "compression_level", "dtype", "overwrite", "executor", "scheduler",
    "workers", "memory",
)  # fmt: skip
_TRAINING_KEYS: Final = (
    "train_ratio", "use_prerendered", "prerendered_dir", "normalize", "augment", "cache_voxels", "max_cache_size",
)  # fmt: skip
"""Of the section ``data``, for training: not looked at here."""


@anywhere("points", alone=("config",), folder="output")
def prerender(
    points: Paths = (),
    output: str | os.PathLike[str] | None = None,
    *,
    config: str | os.PathLike[str] | None = None,
    data_key: str | None = None,
    quiet: bool = False,
    **parameters: Any,
) -> Prerendered:
    """Render point clouds to voxels once, so that training reads them.

    Called again with the same ``output`` it continues where it was interrupted. A folder that holds voxels of other
    parameters or of other points is refused, unless ``overwrite`` is set.

    Args:
        points: files of point clouds (HDF5, NPY, NPZ, PLY, PCD, XYZ, CSV, LAS, LAZ), folders of them, patterns.
        output: folder to write to.
        config: YAML file. Its section ``data`` may name ``h5_file_path`` (or ``points``), ``data_key`` and how clouds
            become grids, its section ``prerender`` an ``output_dir`` and the other parameters. What is given here wins.
        data_key: name of the dataset in HDF5 and NPZ files.
        quiet: no progress bar.
        **parameters: fields of `voxfield.voxels.point_grid.PointGridSettings` (``voxel_size``, ``sigma``,
            ``volume_dims``, ...) and of `voxfield.jobs.prerender.PrerenderSettings` (``max_samples``, ``batch_size``,
            ``compression``, ``memory``, ...). None stands for not given.

    Returns:
        What was done; ``failures`` says which samples could not be rendered, and why (also in ``failures.json``).

    Raises:
        InputError: bad or unknown parameters, nothing named, ``output`` holds other voxels, or no sample could be
            rendered.
        MissingFileError: points or configuration that do not exist.
        MissingExtraError: the compression or file format needs a package that is not installed.
        UnavailableError: the disk is full, or a process was killed. What is done is kept.
    """
    data, wanted = _read_config(config) if config is not None else ({}, {})
    given = {name: value for name, value in parameters.items() if value is not None}
    sources = [points] if isinstance(points, str | os.PathLike) else list(points)
    file_named, more_named = data.pop("h5_file_path", None), data.pop("points", None)
    named = file_named or more_named
    if not sources and named is not None:
        sources = [named] if isinstance(named, str) else list(named)
    file_key, file_folder = data.pop("data_key", None), wanted.pop("output_dir", None)
    key, folder = data_key or file_key, output or file_folder
    if not sources:
        raise InputError("points: name point clouds, with --input-h5 or data.h5_file_path in the --config file.")
    if folder is None:
        raise InputError("output: name a folder, with --output-dir or prerender.output_dir in the --config file.")
    where = "parameters" if config is None else str(config)
    settings = prerender_settings({**data, **wanted}, source=where)
    settings = prerender_settings(given, base=settings)
    # Absolute for a cluster, whose workers have other working folders.
    paths = [local(source).absolute() if settings.scheduler else local(source) for source in sources]
    clouds = PointClouds(paths, data_key=key)
    with published(folder, folder=True) as target, Progress(quiet=quiet) as progress:
        return render(clouds, target, settings=settings, progress=progress)


def prerender_settings(
    values: Mapping[str, Any], *, base: PrerenderSettings | None = None, source: str = "parameters"
) -> PrerenderSettings:
    """Settings in which some values are replaced, all in one flat mapping as documents write them.

    Raises:
        InputError: unknown names (the nearest are named), or values that do not fit.
    """
    known = (*_GRID_KEYS, *_VALUE_KEYS, *_JOB_KEYS)
    for name in values:
        if name not in known:
            raise InputError(f"{source}: unknown parameter {name!r}. {nearest_names(name, known)}")
    # One value in a list is that value, as on a command line.
    plain = {name: value[0] if _is_single(value) else value for name, value in values.items()}
    settings = base or PrerenderSettings()
    grid = {name: value for name, value in plain.items() if name not in _JOB_KEYS}
    return replace_values(
        dataclasses.replace(settings, grid=replace_values(settings.grid, grid, source=source)),
        {name: value for name, value in plain.items() if name in _JOB_KEYS},
        source=source,
    )


def _is_single(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 1


def _read_config(
    config: str | os.PathLike[str] | Mapping[str, Any], *, training: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the sections ``data`` and ``prerender`` say; null is not given. Keys for training only if asked for."""
    content = config if isinstance(config, Mapping) else load_config_file(config)
    where = "configuration" if isinstance(config, Mapping) else str(config)
    sections = []
    for section, known in (
        ("data", ("h5_file_path", "points", "data_key", *_GRID_KEYS, *_TRAINING_KEYS)),
        ("prerender", ("output_dir", *_VALUE_KEYS, *_JOB_KEYS)),
    ):
        values = content.get(section) or {}
        if not isinstance(values, Mapping):
            raise FormatError(f"{where}: expected a mapping in the section {section}, got {values!r}.")
        for name in values:
            if name not in known:
                raise InputError(f"{where}: unknown name {section}.{name}. {nearest_names(str(name), known)}")
        kept = {name: value for name, value in values.items() if value is not None}
        sections.append({name: value for name, value in kept.items() if training or name not in _TRAINING_KEYS})
    return sections[0], sections[1]


@anywhere(alone=("config",))
def voxel_dataset(
    config: str | os.PathLike[str] | Mapping[str, Any],
    split: Split = "all",
    *,
    seed: int = 42,
    augment: VoxelAugment | bool | None = None,
) -> PrerenderedVoxelDataset | PointCloudVoxelDataset:
    """The dataset that a configuration describes: ``data.use_prerendered`` decides which.

    Section ``data``: ``use_prerendered`` (false), ``prerendered_dir``, ``train_ratio`` (0.8), ``normalize`` (true: to
    [-1, 1]), ``augment`` (false), ``h5_file_path`` or ``points``, ``data_key``, ``cache_voxels`` (false),
    ``max_cache_size`` (32) and how clouds become grids. Section ``prerender``: ``normalise``, ``threshold`` and
    ``precision``, so that both kinds of dataset give the same values. Pre-rendered voxels need no clouds.

    Args:
        config: YAML file, or its content.
        split: ``train``, ``val`` or all.
        seed: of split and augmentation.
        augment: instead of ``data.augment``; validation is best left without.

    Raises:
        InputError: unknown names, a value that does not fit, or pre-rendered voxels of other parameters than the
            section ``data`` states.
        MissingFileError, FormatError, MissingExtraError: as the datasets.
    """
    data, wanted = _read_config(config, training=True)
    where = "configuration" if isinstance(config, Mapping) else str(config)
    grid_values = {name: value for name, value in {**data, **wanted}.items() if name in (*_GRID_KEYS, *_VALUE_KEYS)}
    options: dict[str, Any] = {
        "normalise": bool(data.get("normalize", True)),
        "augment": bool(data.get("augment", False)) if augment is None else augment,
        "split": split,
        "train_ratio": data.get("train_ratio", 0.8),
        "seed": seed,
    }
    if data.get("use_prerendered", False):
        folder = data.get("prerendered_dir") or wanted.get("output_dir")
        if folder is None:
            raise InputError(f"{where}: use_prerendered needs data.prerendered_dir.")
        dataset = PrerenderedVoxelDataset(folder, **options)
        _check_same(dataset, grid_values, where)
        return dataset
    named = data.get("h5_file_path") or data.get("points")
    if named is None:
        raise InputError(f"{where}: without use_prerendered, data.h5_file_path must name the point clouds.")
    settings = prerender_settings(grid_values, source=where)
    cache = int(data.get("max_cache_size", 32)) if data.get("cache_voxels", False) else 0
    clouds = [local(one) for one in ([named] if isinstance(named, str | os.PathLike) else named)]
    return PointCloudVoxelDataset(clouds, settings.grid, data_key=data.get("data_key"), cache=cache, **options)


def _check_same(dataset: PrerenderedVoxelDataset, values: Mapping[str, Any], where: str) -> None:
    """Raise InputError where a configuration states other parameters than those the voxels were rendered with."""
    made_with = dataset.metadata.get("parameters")
    if not isinstance(made_with, dict):
        return
    stated = to_plain(prerender_settings(values, source=where).grid)
    for name in values:
        if stated[name] != made_with.get(name):
            raise InputError(
                f"{where}: {name} is {stated[name]}, but {dataset.folder} was rendered with {made_with.get(name)}. "
                "Render anew with `voxfield prerender`, or correct one of them."
            )
