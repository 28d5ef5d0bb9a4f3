"""``voxfield vdb compress``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield vdb compress smoke.vdb --output smoke.vxv --relative-error 0.01"


def command(
    file: Annotated[Positional[Path], arg(metavar="FILE")],
    /,
    *,
    output: Annotated[Path, arg(metavar="FILE")],
    codec: Literal["quantised", "neural"] = "quantised",
    max_error: Annotated[float | None, optional("E")] = None,
    relative_error: Annotated[float | None, optional("SHARE")] = None,
    grids: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = (),
    nodes: Literal["leaf", "lower"] = "leaf",
    steps: Annotated[int, arg(metavar="N")] = 1000,
    warm_start: Annotated[Path | None, optional("FILE")] = None,
    memory: Annotated[str | None, optional("SIZE")] = None,
    quiet: bool = False,
) -> int:
    """Compress an OpenVDB file within a stated error, many times smaller than blosc.

    Which voxels are active, inactive values, tiles, transforms and metadata are kept exactly.

    Args:
        file: a .vdb file.
        output: the file to write.
        codec: quantised predicts values from their neighbours, in seconds; neural by a network, in minutes.
        max_error: how far an active value may be from what it was.
        relative_error: the same as a share of each grid's range of values, such as 0.01.
        grids: names of the grids to keep; all of them if left out.
        nodes: of neural, what networks stand for: leaf for voxels, lower also for which leaves there are.
        steps: of neural, updates of the training; a quarter of them with --warm-start.
        warm_start: of neural, the compressed frame before, whose networks training starts from.
        memory: most memory, such as 8GB; what there is to spare if not given.
        quiet: print no progress.
    """
    import voxfield
    from voxfield.cli.tables import format_table
    from voxfield.storage.remote import local

    config = voxfield.CompressionConfig(
        codec=codec, max_error=max_error, relative_error=relative_error, nodes=nodes, steps=steps
    )
    reports = voxfield.compress_volume(
        file, output, config, names=grids, warm_start=warm_start, quiet=quiet, memory=memory
    )
    rows = [
        (
            one.name,
            one.codec,
            f"{one.active_voxels:,}",
            f"{one.nbytes:,}",
            f"{one.max_error:.4g}",
            f"{one.largest_error:.4g}",
            f"{one.rmse / one.value_range:.3%}" if one.value_range else "0",
        )
        for one in reports
    ]
    print(
        format_table(
            ("grid", "codec", "active voxels", "bytes", "allowed error", "largest error", "RMSE of range"), rows
        )
    )
    before, after = local(file).stat().st_size, local(output).stat().st_size
    print(f"Wrote  {output}: {after:,} bytes, 1/{before / after:.1f} of {file}")
    return 0
