"""Blender shows an exported voxel grid where it is, and as dense as it is."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from voxfield.storage.voxel_vdb import write_voxel_vdb
from voxfield.voxels.voxel_grid import VoxelGrid

SCRIPT = Path(__file__).with_name("blender_render.py")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("half", [False, True])
def test_blender_renders_what_was_exported(blender, tmp_path, half):
    # A slab of 1 by 0.5 by 1, off the middle, within a larger box.
    stored = torch.zeros(16, 16, 16, dtype=torch.bool)
    stored[4:12, 8:12, 4:12] = True
    grid = VoxelGrid(16, (-1, -1, -1, 1, 1, 1), 1, stored=stored, density=1.5)
    path = write_voxel_vdb(tmp_path / "slab.vdb", grid, half=half)
    out = tmp_path / "slab.png"
    done = subprocess.run(
        [blender, str(SCRIPT), str(path), str(out)], capture_output=True, text=True, check=False, timeout=500
    )
    assert out.is_file(), done.stderr[-2000:]
    seen = np.asarray(Image.open(out).convert("RGB"), dtype=float)[..., 0] / 255
    inside = seen[9:15, 10:22]  # y from 0.06 to 0.44, x from -0.38 to 0.38
    assert abs(inside.mean() - np.exp(-1.5)) < 0.03
    outside = np.ones((32, 32), bool)
    outside[5:19, 5:27] = False  # half a voxel of interpolation, and Cycles' filter
    assert seen[outside].mean() > 0.98
