"""Whole experiments by name: what ``voxfield train NAME`` runs."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from voxfield.checks import nearest_names
from voxfield.errors import InputError

if TYPE_CHECKING:
    from voxfield.data.posed_images import PosedImages
    from voxfield.models.base import Model
    from voxfield.training.experiment import Experiment

RECIPES = {
    "grid-ngp": "grid_ngp",
    "nerfacto": "nerfacto",
    "nerfacto-big": "nerfacto_big",
    "nerfacto-huge": "nerfacto_huge",
    "depth-nerfacto": "depth_nerfacto",
    "pynerf": "pynerf",
    "pynerf-synthetic": "pynerf_synthetic",
    "pynerf-occupancy-grid": "pynerf_occupancy_grid",
    "plenoxels": "plenoxels",
    "plenoxels-fast": "plenoxels_fast",
    "plenoxels-llff": "plenoxels_llff",
    "plenoxels-custom": "plenoxels_custom",
    "plenoxels-360": "plenoxels_360",
    "raynet": "raynet",
    "diffusion": "diffusion",
    "voxel-autoencoder": "voxel_autoencoder",
}
"""Name to module. A module has ``experiment(minutes)``; that of a recipe on photographs also
``build_model(config, captures, seed)`` and ``smallest_model()``, that of another names its data in ``TRAINS_ON``. One
that also reads files of settings of other programs has ``read_settings(values, source)``."""

PHOTOGRAPHS = "photographs"
"""The kind of data that a recipe's module need not name."""

ON_A_CPU = {"pynerf": "pynerf-occupancy-grid"}
"""Recipes that another one stands in for on a CPU, where it learns the same in a fraction of the time."""


def for_device(name: str, kind: str, settings: Mapping[str, Any]) -> str:
    """The recipe that ``voxfield train NAME`` runs on a device of ``kind`` (``"cpu"``, ``"cuda"``, ...).

    Who sets ``model.sampling`` among the nested ``settings`` has chosen: the recipe is then the one named.
    """
    model = settings.get("model")
    chosen = isinstance(model, Mapping) and "sampling" in model
    return name if kind != "cpu" or chosen else ON_A_CPU.get(name, name)


def load_recipe(name: str, minutes: float | None = None) -> "Experiment":
    """The default settings of a recipe.

    Args:
        name: a key of `RECIPES`.
        minutes: training time that sizes should suit; None is the full recipe.

    Raises:
        InputError: there is no such recipe; the nearest names are given.
    """
    experiment: Experiment = _module(name).experiment(minutes)
    return experiment


def data_kind(name: str) -> str:
    """What recipe ``name`` learns from, as `voxfield.api.kinds` knows it.

    Raises:
        InputError: there is no such recipe; the nearest names are given.
    """
    kind: str = getattr(_module(name), "TRAINS_ON", PHOTOGRAPHS)
    return kind


def read_settings(name: str, values: dict[str, Any], source: str) -> tuple[dict[str, Any], list[str]]:
    """What a file of settings says in recipe ``name``'s own names, and what there is to say of it.

    Raises:
        InputError: the recipe cannot make sense of it.
    """
    reader = getattr(_module(name), "read_settings", None)
    if reader is None:
        return values, []
    settings, notes = reader(values, source=source)
    return settings, notes


def build_model(name: str, config: Any, captures: "PosedImages", seed: int) -> "Model":
    """A fresh model of recipe ``name``, one on photographs, for the scene of ``captures``, on the CPU."""
    model: Model = _module(name).build_model(config, captures, seed)
    return model


def smallest_model(name: str) -> Any:
    """Settings of a model of recipe ``name`` that uses all of its kernels in next to no time."""
    return _module(name).smallest_model()


def _module(name: str) -> Any:
    if name not in RECIPES:
        raise InputError(f"There is no recipe {name!r}. {nearest_names(name, RECIPES)}")
    return importlib.import_module(f"voxfield.recipes.{RECIPES[name]}")
