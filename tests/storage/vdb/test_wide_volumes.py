"""Memory follows the active voxels, never the box around them."""

import json
import subprocess
import sys

import pytest

CODE = """
import json, resource, sys
import numpy as np
import voxfield
from voxfield.storage.vdb import VdbGrid
from voxfield.voxels.sparse import SparseVolume

# Shells a voxel thick, spread through 100,000 voxels along each axis.
generator = np.random.default_rng(0)
around = np.stack(np.meshgrid(*[np.arange(-21, 22)] * 3, indexing="ij"), -1).reshape(-1, 3)
shell = around[np.abs(np.linalg.norm(around, axis=1) - 20) < 0.5]
centres = generator.integers(30, 99_970, (1_000_000 // len(shell) + 1, 3))
places = (centres[:, None] + shell).reshape(-1, 3)[:1_000_000].astype(np.int32)
places = np.unique(places, axis=0)
values = generator.random(len(places), np.float32) + 1
volume = SparseVolume.from_voxels(places, values)
voxfield.write_volume(sys.argv[1], VdbGrid(name="density", volume=volume, grid_class="fog volume"))
del volume
read = voxfield.read_volume(sys.argv[1]).volume
found, active = read.values_at(places)
inside = read.interpolate(places[::100] + 0.0)
print(json.dumps({
    "voxels": len(places),
    "active": read.active_count,
    "reach": int((read.active_bounds[1] - read.active_bounds[0]).min()),
    "same": bool(active.all() and (found == values).all()),
    "between": bool((inside == values[::100]).all()),
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 1000),
}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the system does not say how much memory a process took")
def test_a_million_voxels_in_a_vast_space_fit_in_600_mb(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "wide.vdb")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert 990_000 < said["voxels"] <= 1_000_000
    assert said["active"] == said["voxels"]
    assert said["reach"] > 95_000
    assert said["same"]
    assert said["between"]
    assert said["peak_mb"] < 600, said
