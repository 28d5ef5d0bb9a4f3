"""Pictures that a diffusion over volumes is shown: means of a volume along one axis, 0 to 1.

Rows and columns are the volume's other two axes in the order z, y, x, both from voxel 0 on: of means along z the rows
are y and the columns x.
"""

from pathlib import Path

import numpy as np
import torch

from voxfield.data.decode import read_header, read_image
from voxfield.errors import FormatError, InputError
from voxfield.storage.npz import map_npy


def read_projections(path: Path, shape: tuple[int, int], count: int) -> torch.Tensor:
    """One projection for each of ``count`` volumes.

    Args:
        path: a ``.npy`` array (R, C), or (count, R, C) for one of each volume; or a picture, whose mean over red, green
            and blue counts.
        shape: (R, C) wanted.
        count: at least 1.

    Returns:
        (count, R, C) float32; one that is alone is taken for all.

    Raises:
        MissingFileError, FormatError: it is absent, damaged, or holds values that are not from 0 to 1.
        InputError: it has another shape.
    """
    if path.suffix.lower() == ".npy":
        values = np.array(map_npy(path))
        if values.dtype.kind not in "fiub" or not values.size or not ((values >= 0) & (values <= 1)).all():
            raise FormatError(f"{path}: expected numbers from 0 to 1, got others ({values.shape} {values.dtype}).")
    else:
        size = read_header(path).size
        values = read_image(path, channels=3, size=size, full_size=size).float().mean(dim=2).numpy() / 255
    shown = torch.from_numpy(values.astype(np.float32))
    if shown.ndim == 2:
        shown = shown[None].expand(count, -1, -1)
    if tuple(shown.shape) != (count, *shape):
        raise InputError(
            f"projection: expected {shape[0]} rows of {shape[1]} values, one picture or one for each of {count} "
            f"volumes, got {tuple(values.shape)} in {path}."
        )
    return shown.contiguous()
