"""An experiment: everything that decides a training run, and the ``experiment.json`` that records it.

Each kind of data has its own :class:`Experiment`, photographs the one here: the groups of settings that all have, and
those that say how such data are read and measured. A recipe returns one; a person's file, ``--set`` options and flags
replace values in it, the later of these winning; the result is written into the run directory before the first step.
Nothing in the file names a class: reading one back starts from the recipe of the recorded name, so files stay readable
when code moves.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import voxfield
from voxfield.data.capture import CaptureOptions
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.storage.atomic import write_json
from voxfield.training.evaluate import EvaluateConfig
from voxfield.training.settings import load_config_file, parse_overrides, replace_values, to_plain
from voxfield.training.trainer import TrainerConfig

MOST_SEED: Final = (1 << 63) - 1
"""The largest number that torch's generators take."""
SCHEMA_VERSION: Final = 1
"""Version of ``experiment.json``. Raised when an older file can no longer be read as it stands."""

EXPERIMENT_NAME: Final = "experiment.json"

_PACKAGES = ("torch", "numpy", "numba", "pillow", "triton")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides a run but the data and the seed. Each kind of data adds groups of settings.

    Attributes:
        recipe: name of the recipe that made it, such as "grid-ngp".
        model: the model's own configuration, a frozen dataclass.
        trainer: steps, batches, schedules, intervals.
    """

    recipe: str
    model: Any
    trainer: TrainerConfig


@dataclass(frozen=True, kw_only=True)
class PhotographExperiment(Experiment):
    """What decides a run on posed photographs.

    Attributes:
        capture: how the photographs are read.
        evaluation: how held-out views are measured.
    """

    capture: CaptureOptions
    evaluation: EvaluateConfig


ExperimentT = TypeVar("ExperimentT", bound=Experiment)


@dataclass(frozen=True, kw_only=True)
class RunRecord(Generic[ExperimentT]):
    """What a run directory's ``experiment.json`` says.

    Attributes:
        experiment: the resolved settings.
        seed: the seed of every random choice.
        data_path: the data as they were named, made absolute.
        data_hash: hash of their description, or None when it was not recorded.
        created: time of the first start, ISO 8601 with zone.
        versions: package name to version, with "python" and "voxfield".
        git: {"commit", "dirty"} of the sources when they ran from a checkout, else None.
        extra: anything else the run recorded (machine, device, precision).
    """

    experiment: ExperimentT
    seed: int
    data_path: str
    data_hash: str | None
    created: str
    versions: Mapping[str, str]
    git: Mapping[str, Any] | None
    extra: Mapping[str, Any]


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """The experiment as plain values: ``{"recipe": ..., "model": {...}, "capture": {...}, ...}``."""
    values: dict[str, Any] = to_plain(experiment)
    return values


def from_dict(template: ExperimentT, values: Mapping[str, Any], *, source: str = "experiment") -> ExperimentT:
    """The inverse of :func:`to_dict`: ``values`` on top of ``template``, the defaults of the same recipe.

    Settings that ``values`` leaves out keep the template's value, so a file written before a setting existed reads as
    the default.

    Raises:
        InputError: when ``values`` come from another recipe, name an unknown setting or hold a wrong type.
    """
    groups = dict(values)
    recipe = groups.pop("recipe", template.recipe)
    if recipe != template.recipe:
        raise InputError(f"{source}: settings of recipe {recipe!r} do not fit recipe {template.recipe!r}.")
    return replace_values(template, groups, source=source)


def apply_overrides(experiment: ExperimentT, overrides: Iterable[str]) -> ExperimentT:
    """Replace settings by ``["model.field.log2_table_size=19", ...]``, each read as its field's type.

    Raises:
        InputError: for an unknown path (the nearest are named), a value of the wrong type, or a missing "=".
    """
    return _replace(experiment, parse_overrides(overrides), "--set")


def resolve(
    experiment: ExperimentT,
    *,
    config: str | os.PathLike[str] | None = None,
    overrides: Iterable[str] = (),
    explicit: Mapping[str, Any] | None = None,
    translate: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> ExperimentT:
    """Apply every source of settings to a recipe's experiment: explicit flag > ``--set`` > file > recipe.

    Args:
        experiment: what the recipe returned.
        config: a YAML file of settings, or another run's ``experiment.json``.
        overrides: ``path=value`` items.
        explicit: values of flags by path, such as ``{"trainer.steps": 2000}``; None means the flag was not given.
        translate: makes settings of what the file says, for recipes that also read files of other programs.

    Raises:
        InputError, FormatError, MissingFileError: as the parts do; messages name the source.
    """
    if config is not None:
        experiment = _replace(experiment, translate(load_config_file(config)), str(config))
    experiment = apply_overrides(experiment, overrides)
    for path, value in (explicit or {}).items():
        if value is not None:
            nested: Any = value
            for name in reversed(path.split(".")):
                nested = {name: nested}
            experiment = _replace(experiment, nested, path)
    return experiment


def _replace(experiment: ExperimentT, values: Mapping[str, Any], source: str) -> ExperimentT:
    recipe = values.get("recipe", experiment.recipe)
    if recipe != experiment.recipe:
        raise InputError(
            f"{source}: the recipe is the first argument of train, not a setting "
            f"({experiment.recipe!r} was asked for, the setting says {str(recipe)!r})."
        )
    return replace_values(experiment, {key: value for key, value in values.items() if key != "recipe"}, source=source)


def write_experiment(
    run_dir: str | os.PathLike[str],
    experiment: Experiment,
    *,
    seed: int,
    data_path: str,
    data_hash: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``experiment.json`` into ``run_dir`` (made when absent) in one step, and return its path.

    Args:
        run_dir: the run directory.
        experiment: the resolved settings.
        seed: the seed of the run.
        data_path: where the data are.
        data_hash: hash of the data's description; a later run on changed data can then say so.
        extra: plain values to keep beside the rest, such as the machine and the device.
    """
    path = Path(run_dir) / EXPERIMENT_NAME
    record = {
        "schema_version": SCHEMA_VERSION,
        "recipe": experiment.recipe,
        "seed": seed,
        "data_path": data_path,
        "data_hash": data_hash,
        "created": datetime.datetime.now(datetime.UTC).astimezone().isoformat(timespec="seconds"),
        "values": {name: value for name, value in to_dict(experiment).items() if name != "recipe"},
        "versions": package_versions(),
        "git": git_state(),
        "extra": to_plain(dict(extra or {})),
    }
    write_json(path, record)
    return path


def check_seed(seed: int) -> None:
    """Raise InputError unless every generator takes ``seed``: 0 to 2^63 - 1."""
    if not 0 <= seed <= MOST_SEED:
        raise InputError(f"seed: expected a whole number from 0 to {MOST_SEED}, got {seed}.")


def read_experiment(
    run_dir: str | os.PathLike[str], template_of: Callable[[str], ExperimentT], *, recipes: Sequence[str] = ()
) -> RunRecord[ExperimentT]:
    """Read a run directory's ``experiment.json``.

    Args:
        run_dir: the run directory.
        template_of: gives a recipe's default experiment by name; raises VoxfieldError for an unknown name.
        recipes: those it may be of (a resumed training); none: any.

    Raises:
        MissingFileError: when there is no such folder, or it holds no run.
        FormatError: when the file is damaged or of a newer schema.
        InputError: when the run is of another recipe than ``recipes``.
    """
    path = Path(run_dir) / EXPERIMENT_NAME
    content = _read_json(path)
    version = content.get("schema_version")
    if not isinstance(version, int) or version < 1:
        raise FormatError(f"{path}: expected a schema_version, got {version!r}. Is it a run's experiment.json?")
    if version > SCHEMA_VERSION:
        raise FormatError(
            f"{path}: written by a newer Voxfield (schema {version}, this one reads up to {SCHEMA_VERSION}). "
            "Update Voxfield: pip install --upgrade voxfield."
        )
    name = _expect(path, content, "recipe", str)
    if recipes and name not in recipes:
        raise InputError(
            f"{Path(run_dir)}: is a run of recipe {name!r}, not {recipes[0]!r}. "
            f"Give another --output, or continue it with: voxfield train {name} ... --resume."
        )
    values = _expect(path, content, "values", dict)
    try:
        experiment = from_dict(template_of(name), values, source=str(path))
    except InputError as error:
        raise FormatError(str(error)) from None
    seed = _expect(path, content, "seed", int)
    try:
        check_seed(seed)
    except InputError as error:
        raise FormatError(f"{path}: {error}") from None
    return RunRecord(
        experiment=experiment,
        seed=seed,
        data_path=_expect(path, content, "data_path", str),
        data_hash=None if content.get("data_hash") is None else _expect(path, content, "data_hash", str),
        created=str(content.get("created", "")),
        versions=_mapping(path, content, "versions") or {},
        git=_mapping(path, content, "git"),
        extra=_mapping(path, content, "extra") or {},
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.parent.is_dir():
        raise MissingFileError(f"{path.parent}: there is no such run directory. Make one: voxfield train RECIPE DATA.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFileError(
            f"{path.parent}: is not a run directory (it holds no {EXPERIMENT_NAME}). "
            "Name the folder that voxfield train wrote, such as runs/NAME."
        ) from None
    except (ValueError, RecursionError):
        raise FormatError(f"{path}: not valid JSON, perhaps edited or cut short. Restore it or train again.") from None
    if not isinstance(content, dict):
        raise FormatError(f"{path}: expected a JSON object, got {type(content).__name__}. Restore it or train again.")
    return content


def _expect(path: Path, content: Mapping[str, Any], key: str, kind: type) -> Any:
    value = content.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = {str: "text", int: "a whole number", dict: "an object"}
        raise FormatError(f"{path}: expected {key!r} to be {kinds[kind]}, got {value!r}. Restore it or train again.")
    return value


def _mapping(path: Path, content: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    """What a file need not say, or says with null."""
    return None if content.get(key) is None else _expect(path, content, key, dict)


def package_versions() -> dict[str, str]:
    """Versions of Python, Voxfield and the packages that decide its numbers; absent packages are left out."""
    versions = {"python": platform.python_version(), "voxfield": voxfield.__version__}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def git_state() -> dict[str, Any] | None:
    """``{"commit", "dirty"}`` of the checkout Voxfield runs from, or None when it runs from an installed copy."""
    source = Path(voxfield.__file__)
    # An installed copy may lie inside somebody's repository (.venv in a project): only sources git tracks are ours.
    if _git(source.parent, "ls-files", "--error-unmatch", source.name) is None:
        return None
    commit = _git(source.parent, "rev-parse", "HEAD")
    changes = _git(source.parent, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None else {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603  (fixed arguments, no shell)
            ["git", "-C", str(folder), *arguments],  # noqa: S607  (whichever git the person uses)
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
