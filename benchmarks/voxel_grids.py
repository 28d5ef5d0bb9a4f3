"""``voxel-grid``: what a plenoxels run's grid takes as a file, and what the pictures lose by it.

Every file is read back, put in the place of the run's own grid, and its test views are measured: what thinning,
16 bits and compression cost is in the loss.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def measure(
    run_dir: Path,
    *,
    thinnings: Sequence[float],
    errors: Sequence[float],
    neural_errors: Sequence[float],
    steps: int,
    max_images: int | None,
) -> list[dict[str, Any]]:
    """Write the grid in every form and measure the test views of each.

    Args:
        run_dir: a plenoxels run. What its views measure is written into its ``eval`` folder, as `voxfield eval` does.
        thinnings: densities up to which voxels go, of further ``.vdb`` files.
        errors: relative errors of the codec ``quantised``, of every grid of the file that is not thinned.
        neural_errors: the same of ``neural``.
        steps: of a network's training.
        max_images: only so many views, evenly chosen; None: all.

    Returns:
        One row a form.
    """
    import voxfield

    run = voxfield.open(run_dir)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="voxfield-voxel-grid-") as temporary:
        for form, stored, plain in _forms(run, Path(temporary), thinnings, errors, neural_errors, steps):
            measured = run.with_volume(plain).evaluate(max_images=max_images, quiet=True)
            psnr = float(measured["psnr"])
            lost = (rows[0]["psnr"] if rows else psnr) - psnr
            row = {"form": form, "bytes": stored.stat().st_size, "psnr": psnr, "lost": lost}
            rows.append({**row, "num_images": measured["num_images"]})
            print(f"{form:32} {rows[-1]['bytes']:>12,} bytes, PSNR {psnr:.2f} dB, {lost:.2f} lost", flush=True)
    return rows


def _forms(
    run: Any,
    folder: Path,
    thinnings: Sequence[float],
    errors: Sequence[float],
    neural_errors: Sequence[float],
    steps: int,
) -> Iterator[tuple[str, Path, Path]]:
    """What each form is called, the file that is weighed, and the ``.vdb`` file that it unpacks to."""
    import voxfield

    whole, plain = folder / "whole.vdb", folder / "shown.vdb"
    run.export_vdb(whole, half=True)
    yield ".vdb, half + blosc", whole, whole
    for density in thinnings:
        voxfield.optimise_volume(whole, plain, tolerance=density, half=True)
        yield f".vdb, half + blosc, density > {density:g}", plain, plain
    for codec, error in [*(("quantised", one) for one in errors), *(("neural", one) for one in neural_errors)]:
        config = voxfield.CompressionConfig(codec=codec, relative_error=error, steps=steps)
        packed = folder / "packed.vxv"
        voxfield.compress_volume(whole, packed, config)
        voxfield.decompress_volume(packed, plain)
        yield f"{codec}, error {error:.1%} of the range", packed, plain
