"""A field's weights for other programs: one safetensors file, and a list that says what each tensor is.

Names are those of the model's own ``state_dict``. `MEANINGS` is the documented map from them to what they are, with the
part of nerfstudio's nerfacto that does the same where there is one; the list is written beside the weights. What a
state holds besides tensors (a pyramid's settings) goes into the list.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from voxfield.errors import FormatError, MissingFileError
from voxfield.storage.atomic import replacing, write_json

WEIGHTS_NAME: Final = "weights.safetensors"
LIST_NAME: Final = "weights.json"
FORMAT: Final = "voxfield-weights"
VERSION: Final = 1

MEANINGS: Final[tuple[tuple[str, str, str | None], ...]] = (
    (r"field\.table", "entries of the hash grid, level after level: (entries, features)", "field.mlp_base"),
    (r"field\.tables\.(\d+)", "entries of hash grid {0}: (entries, features)", "field.mlp_base"),
    (r"field\.density_net\.(\d+)", "layer {0} of the density network: (outputs, inputs)", "field.mlp_base"),
    (
        r"field\.density_nets\.(\d+)\.(\d+)",
        "layer {1} of the density network of pyramid level {0}: (outputs, inputs)",
        "field.mlp_base",
    ),
    (r"field\.colour_net\.(\d+)", "layer {0} of the colour network: (outputs, inputs)", "field.mlp_head"),
    (
        r"field\.colour_nets\.(\d+)\.(\d+)",
        "layer {1} of colour network {0}: (outputs, inputs)",
        "field.mlp_head",
    ),
    (r"field\.trained\.least", "the least pyramid level learnt in each cell", None),
    (r"field\.trained\.greatest", "the greatest pyramid level learnt in each cell", None),
    (r"appearance", "appearance of each training image: (images, numbers)", "field.embedding_appearance"),
    (r"proposals\.(\d+)\.table", "entries of proposal network {0}'s hash grid", "proposal_networks.{0}"),
    (
        r"proposals\.(\d+)\.density_net\.(\d+)",
        "layer {1} of proposal network {0}: (outputs, inputs)",
        "proposal_networks.{0}",
    ),
    (r"normals\.net\.(\d+)", "layer {0} of the network of normals: (outputs, inputs)", "field.mlp_pred_normals"),
    (
        r"poses\.corrections",
        "corrections of the training poses: (images, translation and axis-angle)",
        "camera_optimizer.pose_adjustment",
    ),
    (r"occupancy\.(\w+)", "the occupancy grid: {0}", None),
    (r"footprints\.(\w+)", "pixels that stand for all in the occupancy grid: {0}", None),
    (r"grid\.density", "density of each stored voxel, as it is learnt: (voxels,)", None),
    (r"grid\.sh", "spherical harmonics of each stored voxel's colour: (voxels, channels, coefficients)", None),
    (r"grid\.links", "the stored voxel at each place of the grid, below 0 where there is none: (z, y, x)", None),
    (r"spheres\.density", "density of each stored texel of the spheres, as it is learnt: (texels,)", None),
    (r"spheres\.rgb", "colour of each stored texel of the spheres: (texels, channels)", None),
    (r"spheres\.links", "the stored texel at each place of the spheres: (spheres, polar angle, longitude)", None),
    (r"spheres_stage", "the stage that the spheres have followed to", None),
    (r"_extra_state", "bits of the voxels that were dense when training last looked: 8 to a byte, or none", None),
    (r"stage|begun", "the grid's resolution in training: which one, and since which step", None),
    (r"samples_per_ray|visible_share|step_scale", "state of the training batches", None),
)
"""Pattern of a tensor's name, what it is, and the part of nerfstudio's nerfacto that does the same (None: there is
none)."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What was written."""

    file: Path
    """The safetensors file."""
    listing: Path
    """The list of its tensors."""
    tensors: int
    """Tensors in it."""
    bytes: int
    """Bytes of the file."""


def write_weights(
    folder: str | os.PathLike[str], module: torch.nn.Module, *, about: Mapping[str, Any] | None = None
) -> Weights:
    """Write a module's state as ``weights.safetensors`` and ``weights.json``.

    Args:
        folder: made when absent; files of these names are replaced.
        module: any; its state must be tensors, and plain values that JSON has.
        about: plain values to keep in the list, such as the recipe and its settings.

    Returns:
        What was written.
    """
    from safetensors.torch import save_file

    target = Path(folder)
    state = module.state_dict()
    # Copies: safetensors refuses tensors that share memory or are strided.
    tensors = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    with replacing(target / WEIGHTS_NAME) as temporary:
        save_file(tensors, temporary, metadata={"format": FORMAT, "version": str(VERSION)})
    listing = {
        "format": FORMAT,
        "version": VERSION,
        **(about or {}),
        "state": {name: value for name, value in state.items() if name not in tensors},
        "tensors": {name: _described(name, tensor) for name, tensor in tensors.items()},
    }
    write_json(target / LIST_NAME, listing)
    return Weights(
        file=target / WEIGHTS_NAME,
        listing=target / LIST_NAME,
        tensors=len(tensors),
        bytes=(target / WEIGHTS_NAME).stat().st_size,
    )


def read_weights(folder: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """The tensors that `write_weights` wrote, by name, on the CPU.

    Raises:
        MissingFileError: there is no such file. FormatError: it is damaged, or something else.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(folder) / WEIGHTS_NAME
    if not path.is_file():
        raise MissingFileError(f"{path}: there is no such file. Write it: voxfield export nerfstudio RUN OUTPUT.")
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("format") != FORMAT:
                raise FormatError(f"{path}: holds no weights of Voxfield. Export the run again.")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (a file, not a mapping)
    except SafetensorError as error:
        raise FormatError(f"{path}: cannot be read ({error}). Export the run again.") from None


def meaning(name: str) -> tuple[str, str | None]:
    """What the tensor ``name`` is, and the part of nerfstudio's nerfacto that does the same, if there is one."""
    for pattern, words, counterpart in MEANINGS:
        found = re.fullmatch(pattern, name)
        if found:
            numbers = found.groups()
            return words.format(*numbers), None if counterpart is None else counterpart.format(*numbers)
    return "a tensor of the model", None


def _described(name: str, tensor: torch.Tensor) -> dict[str, Any]:
    words, counterpart = meaning(name)
    return {
        "meaning": words,
        "nerfstudio_counterpart": counterpart,
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
    }
