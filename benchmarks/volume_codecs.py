"""``volumes``: how small real volumes become within stated errors, and how fast, beside half precision and blosc.

Times are of the wall and of the processor: on a machine that others use too, the latter divided by the cores kept busy
is what an idle one would take.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

RMSE_GOAL = 0.005
"""Of the range: the error of the rows named "RMSE 0.5%"."""
SAFE_ERROR = 0.0086
"""A relative error that meets it whatever the distribution: its root mean square is a square root of 3 less."""
TRIES = 3
"""Wider ones tried behind it, for which only ``quantised`` is quick enough."""


def measure(
    files: Sequence[Path], *, errors: Sequence[float], steps: int, codecs: Sequence[str]
) -> list[dict[str, Any]]:
    """Compress every file by every codec at the goal and at every error.

    Args:
        files: ``.vdb`` files.
        errors: largest errors as shares of the range.
        steps: of a network's training.
        codecs: ``quantised``, ``neural``.

    Returns:
        One row a file, codec and error.
    """
    from voxfield.storage.vdb import read_vdb, write_vdb

    rows = []
    with tempfile.TemporaryDirectory(prefix="voxfield-volumes-") as folder:
        for file in files:
            grids = read_vdb(file)
            plain = write_vdb(Path(folder) / "plain.vdb", [replace(grid, half=True) for grid in grids])
            about = {
                "file": file.name,
                "kind": grids[0].grid_class,
                "grids": len(grids),
                "active": sum(grid.volume.active_count for grid in grids),
                "half_blosc": plain.stat().st_size,
            }
            for codec in codecs:
                packed = Path(folder) / "packed.vxv"
                rows.append({**about, "goal": "RMSE 0.5%", **_to_goal(grids, packed, codec, steps)})
                for error in errors:
                    rows.append({**about, "goal": f"max {error:.0%}", **_once(grids, packed, codec, error, steps)})
                for row in rows[-1 - len(errors) :]:
                    _say(row)
    return rows


def _to_goal(grids: Any, packed: Path, codec: str, steps: int) -> dict[str, Any]:
    """The widest error whose root mean square, in every grid, is within the goal; networks are trained once."""
    error = SAFE_ERROR
    best = row = _once(grids, packed, codec, error, steps)
    for _ in range(TRIES if codec == "quantised" else 0):
        if row["rmse"] == 0:
            break
        error = min(0.999 * error * RMSE_GOAL / row["rmse"], 0.1)
        row = _once(grids, packed, codec, error, steps)
        if row["rmse"] <= RMSE_GOAL and row["bytes"] < best["bytes"]:
            best = row
    return best


def _once(grids: Any, packed: Path, codec: Any, error: float, steps: int) -> dict[str, Any]:
    """One compression and decompression, checked."""
    import numpy as np

    from voxfield.storage.compressed import CompressionConfig, read_compressed, write_compressed

    config = CompressionConfig(codec=codec, relative_error=error, steps=steps)
    reports, encoding = _timed(lambda: write_compressed(packed, grids, config))
    read_compressed(packed)  # compilation is not counted
    again, decoding = _timed(lambda: read_compressed(packed))
    exact = all(np.array_equal(one.volume.active, two.volume.active) for one, two in zip(grids, again, strict=True))
    return {
        "codec": codec,
        "relative_error": error,
        "bytes": packed.stat().st_size,
        "network_bytes": sum(report.network_bytes for report in reports),
        "rmse": max(report.rmse / (report.value_range or 1.0) for report in reports),
        "largest": max(report.largest_error / (report.value_range or 1.0) for report in reports),
        "exact_topology": exact,
        "steps": steps if codec == "neural" else 0,
        "encode": encoding,
        "decode": decoding,
    }


def _timed(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What a call returns, and its seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    result = call()
    return result, {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}


def _say(row: dict[str, Any]) -> None:
    print(
        f"{row['file']:32} {row['codec']:10} {row['goal']:10} {row['bytes']:>9,} bytes, "
        f"{row['half_blosc'] / row['bytes']:5.1f}x smaller, RMSE {row['rmse']:.3%}",
        flush=True,
    )


def sample_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """The ``.vdb`` files of a folder that are read whole, or those named."""
    from voxfield.errors import VoxfieldError
    from voxfield.storage.vdb import VdbFile

    found = []
    for file in sorted(folder.glob("*.vdb")):
        if names and file.stem not in names:
            continue
        try:
            kinds = [header.kind for header in VdbFile(file).grids]
        except VoxfieldError:
            continue
        if kinds and None not in kinds:
            found.append(file)
    return found
