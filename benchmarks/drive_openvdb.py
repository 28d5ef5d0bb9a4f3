"""OpenVDB's own writing and reading, run by the Python that has it, which has NumPy besides and nothing of ours."""

import os
import time
from pathlib import Path

os.environ["OPENVDB_DISABLE_DELAYED_LOAD"] = "1"  # voxels are read when a file is, as ours are

from alternation import serve


def prepare(order):
    """What can be asked: ``write`` the array of ``order["dense"]``, ``read`` what either wrote; each once a piece."""
    import numpy as np
    import pyopenvdb as vdb

    grid = vdb.FloatGrid()
    grid.copyFromArray(np.load(order["dense"]).transpose(2, 1, 0).copy())
    grid.name, grid.gridClass = "density", vdb.GridClass.FOG_VOLUME
    own = str(Path(order["folder"]) / "theirs.vdb")

    def timed(call):
        wall, processor = time.perf_counter(), time.process_time()
        call()
        return [time.perf_counter() - wall, time.process_time() - processor]

    def seen(path):
        (found,) = vdb.readAll(str(path))[0]
        return found.activeVoxelCount()

    return {
        "write": lambda count: [timed(lambda: vdb.write(own, grids=[grid])) for _ in range(count)],
        "read": lambda count: [timed(lambda: vdb.readAll(own)) for _ in range(count)],
        "size": lambda _: Path(own).stat().st_size,
        "active": lambda _: [seen(own), seen(Path(order["folder"]) / "ours.vdb")],
        "version": lambda _: ".".join(map(str, vdb.LIBRARY_VERSION)),
    }


if __name__ == "__main__":
    serve(prepare)
