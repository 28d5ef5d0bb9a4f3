"""MONAI's networks, which the extra ``diffusion`` brings."""

import importlib
from typing import Any

from voxfield.errors import MissingExtraError


def monai_network(module: str, name: str, purpose: str) -> Any:
    """The class ``name`` of ``monai.networks.nets.<module>``.

    Raises:
        MissingExtraError: MONAI, or einops that its blocks need and ask for only when they run, is not installed;
            ``purpose`` says what needs it.
    """
    try:
        importlib.import_module("einops")
        return getattr(importlib.import_module(f"monai.networks.nets.{module}"), name)
    except ImportError as error:
        raise MissingExtraError(
            f'{purpose} needs MONAI and einops ({error}). Install them with: pip install "voxfield[diffusion]".'
        ) from error
