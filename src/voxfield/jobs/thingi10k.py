"""Meshes of Thingi10K (Zhou and Jacobson 2016), through the data set's own package, which downloads them."""

import os
from pathlib import Path
from typing import Any

from voxfield.checks import check_range
from voxfield.errors import InputError, MissingExtraError, UnavailableError


def thingi10k_meshes(count: int, *, start_object: int = 0, cache: str | os.PathLike[str] | None = None) -> list[Path]:
    """Files of ``count`` different things, in the order of the data set; downloaded where they are not there yet.

    Args:
        count: how many, at least 1.
        start_object: things passed over.
        cache: the package's folder for downloads; its own choice if absent.

    Raises:
        MissingExtraError: the ``thingi10k`` package is not installed.
        UnavailableError: the package could not download it.
        InputError: there are not so many.
    """
    check_range("count", count, minimum=1)
    check_range("start_object", start_object, minimum=0)
    try:
        import thingi10k
    except ImportError as error:
        raise MissingExtraError(
            'Thingi10K needs its own package. Install it with: pip install "voxfield[neural-rendering]".'
        ) from error
    # The raw variant is the one with mesh files; the default holds arrays.
    options: dict[str, Any] = {} if cache is None else {"cache_dir": str(cache)}
    try:
        thingi10k.init(variant="raw", **options)
    except (RuntimeError, OSError) as error:
        raise UnavailableError(
            f"Thingi10K: its package could not fetch the data set ({error}). Check the network, or download the meshes "
            "yourself and name their folder: voxfield dataset build FOLDER."
        ) from error
    entries: dict[Any, Path] = {}
    for entry in thingi10k.dataset():
        # A thing may have several files; the first one stands for it.
        entries.setdefault(entry["thing_id"], Path(entry["file_path"]))
        if len(entries) == start_object + count:
            break
    chosen = list(entries.values())[start_object:]
    if not chosen:
        raise InputError(f"start_object: Thingi10K has {len(entries)} things, none from {start_object} on.")
    return chosen
