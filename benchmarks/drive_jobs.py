"""Jobs on one or two workers, in a process of its own: its workers have a thread each, as cores to themselves."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before anything asks how many there are; workers inherit it

import shutil
import time
from pathlib import Path
from typing import Any

from alternation import serve


def prepare(order: dict[str, Any]) -> dict[str, Any]:
    """What can be asked: a job of so many inputs, ``build``, ``trace`` or ``prerender``; the answer is in seconds.

    ``order``: ``inputs`` (a folder of `job_scaling.write_inputs`), ``workers``, and ``dask``, whether they are Dask's.
    """
    import voxfield

    inputs, count = Path(order["inputs"]), int(order["workers"])
    where: dict[str, Any] = {"workers": count}
    if order["dask"]:
        from distributed import LocalCluster

        cluster = LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None, host="127.0.0.1")
        where = {"executor": "dask", "scheduler": cluster.scheduler_address}

    def timed(call: Any) -> float:
        output = inputs / f"output-{count}-{order['dask']}"
        began = time.perf_counter()
        call(output)
        seconds = time.perf_counter() - began
        shutil.rmtree(output)
        return seconds

    def build(tasks: int) -> float:
        meshes = sorted((inputs / "meshes").iterdir())[:tasks]
        return timed(lambda output: voxfield.build_shapes(meshes, output, quiet=True, **where))

    def trace(tasks: int) -> float:
        options = {"min_level": 3, "max_level": 3, "sphere_divisions": 2, "samples_per_view": 300}
        return timed(
            lambda output: voxfield.trace_shapes(inputs / f"dataset-{tasks}", output, quiet=True, **options, **where)
        )

    def prerender(tasks: int) -> float:
        options = {"voxel_size": 128, "volume_dims": (1.0, 1.0, 1.0), "threshold": 0.001, "max_samples": tasks}
        source = inputs / "pointclouds.h5"
        return timed(lambda output: voxfield.prerender(source, output, quiet=True, **options, **where))

    return {"build": build, "trace": trace, "prerender": prerender}


if __name__ == "__main__":
    serve(prepare)
