"""Checkpoints: whole training states in ``checkpoints/step-000012000.pt``, written atomically, oldest removed.

A checkpoint holds tensors and plain values only and is loaded with ``weights_only=True``: opening one runs no code. It
is loaded on the CPU, from where models and optimisers copy it to their device: a device that fails is no damaged file.
"""

import os
from pathlib import Path
from typing import Any

import torch

from voxfield.errors import FormatError, MissingFileError
from voxfield.storage.atomic import replacing

FORMAT = "voxfield-checkpoint"
VERSION = 1
FOLDER = "checkpoints"


def save_checkpoint(run_dir: str | os.PathLike[str], step: int, state: dict[str, Any], *, keep: int) -> Path:
    """Write ``state`` as the checkpoint of ``step`` and remove all but the newest ``keep`` (at least 1)."""
    path = write_checkpoint(Path(run_dir) / FOLDER / f"step-{step:09d}.pt", step, state)
    for old in list_checkpoints(run_dir)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def write_checkpoint(path: str | os.PathLike[str], step: int, state: dict[str, Any]) -> Path:
    """Write ``state`` (tensors and plain values) as a checkpoint of ``step`` at ``path``, whatever its ending."""
    with replacing(path) as temporary:
        torch.save({"format": FORMAT, "version": VERSION, "step": step, **state}, temporary)
    return Path(path)


def list_checkpoints(run_dir: str | os.PathLike[str]) -> list[Path]:
    """Checkpoints of a run, oldest first; empty when there are none."""
    return sorted((Path(run_dir) / FOLDER).glob("step-*.pt"))


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read one checkpoint; its tensors are on the CPU.

    Raises:
        MissingFileError: there is no such file.
        FormatError: it is cut short, damaged, of a newer version, or something else than a checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise MissingFileError(f"{path}: there is no such checkpoint.") from None
    except Exception as error:  # noqa: BLE001  (damaged bytes lead a reader to any error there is)
        raise FormatError(
            f"{path}: cannot be read ({type(error).__name__}), perhaps cut short. Delete it; the one before it is used."
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise FormatError(f"{path}: is not a checkpoint of Voxfield.")
    if not isinstance(state.get("version"), int) or state["version"] > VERSION:
        raise FormatError(f"{path}: was written by a newer Voxfield. Update it: pip install --upgrade voxfield.")
    if not isinstance(state.get("step"), int):
        raise FormatError(f"{path}: does not say its step: it is damaged. Delete it; the one before it is used.")
    return state


def load_latest(run_dir: str | os.PathLike[str]) -> tuple[Path, dict[str, Any], list[str]]:
    """The newest checkpoint of a run that can be read.

    Returns:
        Its path, its state, and one message for each newer one that could not be read.

    Raises:
        MissingFileError: the run has no checkpoint.
        FormatError: none of its checkpoints can be read.
    """
    paths = list_checkpoints(run_dir)
    if not paths:
        raise MissingFileError(f"{Path(run_dir)}: holds no checkpoint yet. Train it: voxfield train RECIPE DATA.")
    problems: list[str] = []
    for path in reversed(paths):
        try:
            return path, load_checkpoint(path), problems
        except FormatError as error:
            problems.append(str(error))
    raise FormatError(f"{problems[0]} No checkpoint of this run can be read: train it again.")
