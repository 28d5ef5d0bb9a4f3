"""Checks of arguments, written once, so that every message has the same shape: expected, came, do."""

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from voxfield.errors import InputError


def check_shape(name: str, tensor: torch.Tensor, shape: Sequence[int | str]) -> None:
    """Raise unless ``tensor`` has ``shape``; a string entry names a free dimension.

    Args:
        name: the argument's name, as the caller wrote it.
        tensor: what came.
        shape: expected sizes, e.g. ``("N", 3)``. Equal strings must have equal sizes.

    Raises:
        InputError: naming the expected and the actual shape.
    """
    bound: dict[str, int] = {}
    fits = tensor.ndim == len(shape)
    if fits:
        for size, expected in zip(tensor.shape, shape, strict=True):
            if isinstance(expected, str):
                expected = bound.setdefault(expected, size)
            fits = fits and size == expected
    if not fits:
        wanted = "(" + ", ".join(str(size) for size in shape) + ")"
        raise InputError(f"{name}: expected shape {wanted}, got {tuple(tensor.shape)}.")


def check_dtype(name: str, tensor: torch.Tensor, dtypes: Iterable[torch.dtype]) -> None:
    """Raise unless ``tensor.dtype`` is one of ``dtypes``."""
    allowed = tuple(dtypes)
    if tensor.dtype not in allowed:
        wanted = " or ".join(str(dtype) for dtype in allowed)
        raise InputError(f"{name}: expected dtype {wanted}, got {tensor.dtype}. Convert it with .to(...).")


def check_same_device(**tensors: torch.Tensor) -> torch.device:
    """Return the one device all ``tensors`` live on, or raise naming the two that differ."""
    items = list(tensors.items())
    first_name, first = items[0]
    for name, tensor in items[1:]:
        if tensor.device != first.device:
            raise InputError(f"{name} is on {tensor.device} but {first_name} is on {first.device}: move one of them.")
    return first.device


def check_range(
    name: str, value: float, *, minimum: float = -math.inf, maximum: float = math.inf, above: float = -math.inf
) -> None:
    """Raise unless ``minimum <= value <= maximum`` and ``value > above`` (NaN never fits)."""
    if not (minimum <= value <= maximum and value > above):
        low = f"above {above:g}" if above > -math.inf else f"at least {minimum:g}" if minimum > -math.inf else ""
        high = f"at most {maximum:g}" if maximum < math.inf else ""
        limits = " and ".join(part for part in (low, high) if part)
        raise InputError(f"{name}: expected {f'a value {limits}' if limits else 'a number'}, got {value}.")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise unless ``value`` is one of ``choices``; the message lists them, nearest first. True is not the number 1."""
    options = list(choices)
    if value not in options or isinstance(value, bool) != isinstance(options[options.index(value)], bool):
        raise InputError(f"{name}: unknown value {value!r}. {nearest_names(str(value), [str(o) for o in options])}")


def nearest_names(name: str, known: Iterable[str]) -> str:
    """A sentence for error messages: the names of ``known`` nearest to ``name``, or all of them when none is near."""
    names = sorted(known, key=lambda one: (0, int(one), one) if one.isdecimal() else (1, 0, one))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(close) + "?"
    return "Known: " + ", ".join(names) + "."


_UNITS = {
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", start=1)},
    **{f"{prefix}IB": 1024**power for power, prefix in enumerate("KMGT", start=1)},
}


def check_bytes(name: str, value: int | str) -> int:
    """An amount of memory in bytes, from a whole number of them or a text with a unit.

    Args:
        name: the argument's name, as the caller wrote it.
        value: such as ``4_000_000_000``, ``"4GB"`` (10^9), ``"1.5 GiB"`` (2^30), ``"512mb"``. A text without a unit is
            refused: who writes 4 does not mean 4 bytes.

    Returns:
        Bytes, at least 1, rounded down.

    Raises:
        InputError: anything else.
    """
    fault = InputError(
        f"{name}: expected an amount of memory with a unit, such as 4GB, 1.5GiB or 512MB, got {value!r}."
    )
    if isinstance(value, str):
        found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([A-Z]{1,3})", value.strip().upper(), re.ASCII)
        if found is None or found[2] not in _UNITS:
            raise fault
        value = int(float(found[1]) * _UNITS[found[2]])
    elif isinstance(value, bool) or not isinstance(value, int):
        raise fault
    check_range(name, value, minimum=1, maximum=2**50)
    return value
