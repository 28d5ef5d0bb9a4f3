"""The names of the PyNeRF document: change its ``from pyramid_nerf import`` to this module.

What each does, and where the document is wrong, is in docs/compat/pyramid_nerf.md. New code is better served by
``voxfield.train("pynerf", ...)``.
"""

from voxfield.compat.pyramid_levels import (
    compute_psnr,
    compute_sample_area,
    compute_ssim,
    create_pyramid_hierarchy,
    get_pyramid_level,
    interpolate_pyramid_outputs,
)
from voxfield.compat.pyramid_model import (
    PyNeRF,
    PyNeRFConfig,
    PyramidEncoder,
    PyramidRenderer,
    convert_to_nerfstudio_format,
    load_pyramid_model,
    save_pyramid_model,
)
from voxfield.compat.pyramid_training import MultiScaleDataset, MultiScaleTrainer, PyNeRFDataset, PyNeRFTrainer

__all__ = [
    "MultiScaleDataset",
    "MultiScaleTrainer",
    "PyNeRF",
    "PyNeRFConfig",
    "PyNeRFDataset",
    "PyNeRFTrainer",
    "PyramidEncoder",
    "PyramidRenderer",
    "compute_psnr",
    "compute_sample_area",
    "compute_ssim",
    "convert_to_nerfstudio_format",
    "create_pyramid_hierarchy",
    "get_pyramid_level",
    "interpolate_pyramid_outputs",
    "load_pyramid_model",
    "save_pyramid_model",
]
