"""What the real OpenVDB makes of a file. Run by Debian's Python, whose OpenVDB wants a NumPy below 2.

openvdb_oracle.py read OUT.npz FILE...   every grid: values and states in a box, transform, metadata
openvdb_oracle.py write FULL HALF        two files of grids that exercise the format, named by what they are
"""

import json
import sys

import numpy as np
import pyopenvdb as vdb

LOWER, UPPER = (-16, -16, -16), (24, 24, 24)


def read(out, paths):
    arrays, files = {}, []
    for number, path in enumerate(paths):
        grids, metadata = vdb.readAll(path)
        described = [describe(grid, f"{number}.{at}", arrays) for at, grid in enumerate(grids)]
        files.append({"grids": described, "metadata": {key: repr(value) for key, value in metadata.items()}})
    np.savez(out, described=np.array(json.dumps(files)), **arrays)


def describe(grid, number, arrays):
    vector = isinstance(grid, vdb.Vec3SGrid)
    dtype = bool if isinstance(grid, vdb.BoolGrid) else np.float32
    size = tuple(b - a for a, b in zip(LOWER, UPPER, strict=True))
    values = np.zeros(size + ((3,) if vector else ()), dtype=dtype)
    grid.copyToArray(values, ijk=LOWER)
    on = np.zeros(size, dtype=bool)
    for item in grid.citerOnValues():
        low = np.maximum(np.array(item.min) - LOWER, 0)
        high = np.maximum(np.array(item.max) + 1 - LOWER, 0)
        on[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = True
    arrays["values" + number], arrays["on" + number] = values, on
    return {
        "name": grid.name,
        "class": grid.gridClass,
        "half": grid.saveFloatAsHalf,
        "background": np.array(grid.background, dtype=np.float64).tolist(),
        "active": grid.activeVoxelCount(),
        "bounds": grid.evalActiveVoxelBoundingBox(),
        "ends": [grid.transform.indexToWorld(one) for one in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))],
        "metadata": {key: repr(value) for key, value in grid.metadata.items()},
        "type": grid.valueTypeName,
    }


def write(path, half):
    draw = np.random.RandomState(0)
    made = []

    def add(grid, name, kind=""):
        grid.name = name
        if kind:
            grid.gridClass = kind
        grid.saveFloatAsHalf = half
        made.append(grid)
        return grid

    dense = np.where(draw.rand(30, 25, 20) < 0.3, draw.randn(30, 25, 20), 0).astype(np.float32)
    fog = add(vdb.FloatGrid(), "fog", vdb.GridClass.FOG_VOLUME)
    fog.copyFromArray(dense, ijk=(-11, -5, 3))
    fog.transform = vdb.createLinearTransform([[0.5, 0, 0, 0], [0, 0.25, 0, 0], [0, 0, 0.125, 0], [1, 2, 3, 1]])
    fog["text"], fog["whole"], fog["number"], fog["yes"], fog["triple"] = "n\u00e4her", 7, 2.5, True, (1.0, 2.0, 3.0)
    sphere = vdb.createLevelSetSphere(radius=1.5, center=(0.7, 0.2, 0.3), voxelSize=0.1, halfWidth=3)
    add(sphere, "sphere")
    colour = add(vdb.Vec3SGrid(background=(0.5, 0.25, 0)), "colour", vdb.GridClass.STAGGERED)
    colour.copyFromArray(draw.rand(9, 17, 12, 3).astype(np.float32), ijk=(-3, -3, -3))
    mask = add(vdb.BoolGrid(), "mask")
    mask.copyFromArray(draw.rand(20, 20, 20) < 0.5, ijk=(0, 0, -9))
    tiles = add(vdb.FloatGrid(background=-1.0), "tiles")
    tiles.fill((-16, -16, -16), (15, 15, 15), 3.0, active=True)
    tiles.fill((0, 0, 0), (7, 7, 7), 4.0, active=False)
    tiles.fill((8, 8, 8), (11, 11, 11), 5.0, active=False)
    tiles.fill((9, 9, 9), (10, 10, 10), 6.0, active=False)
    tiles.fill((8, 0, 8), (11, 3, 11), 7.0, active=False)
    tiles.prune()
    add(vdb.FloatGrid(background=2.0), "empty")
    twin = fog.copy()  # shares the tree
    twin.transform = vdb.createLinearTransform(voxelSize=2.0)
    add(twin, "twin")
    for value in (1.0, 2.0):
        again = add(vdb.FloatGrid(), "again")
        again.fill((0, 0, 0), (1, 1, 1), value)
    add(vdb.FloatGrid(), "").fill((0, 0, 0), (0, 0, 0), 1.0)
    vdb.write(path, grids=made, metadata={"title": "oracle", "count": 3})


if __name__ == "__main__":
    if sys.argv[1] == "read":
        read(sys.argv[2], sys.argv[3:])
    else:
        write(sys.argv[2], half=False)
        write(sys.argv[3], half=True)
