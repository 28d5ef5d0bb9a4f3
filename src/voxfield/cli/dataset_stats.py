"""``voxfield dataset stats``."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from voxfield.cli.tables import format_table

EXAMPLE = "voxfield dataset stats dataset"


def command(dataset: Annotated[Positional[Path], arg(metavar="DATASET")], /) -> int:
    """Say what a voxel dataset holds: objects, blocks of each level, how many are different, bytes.

    Args:
        dataset: its folder.
    """
    from voxfield.storage.remote import local
    from voxfield.storage.remote.fetch import format_bytes
    from voxfield.storage.shapes import read_about

    dataset = local(dataset)
    about, content = read_about(dataset)
    turned = about.symmetry
    rows = [
        (
            str(level["level"]),
            f"{about.base_resolution >> level['level']}",
            f"{level['total']:,}",
            *([f"{level.get('oriented', 0):,}"] if turned else []),
            f"{level['unique']:,}",
            f"{level['deduplication_ratio']:.1%}",
        )
        for level in content["deduplication_stats"].values()
    ]
    kinds = ("different as they lie", "different up to symmetry") if turned else ("different",)
    print(format_table(("level", "voxels across", "blocks", *kinds, "share"), rows))
    size = sum(path.stat().st_size for path in dataset.rglob("*") if path.is_file())
    count = content["num_objects"]
    print(f"{count} objects of {about.base_resolution} voxels across, layout {content.get('layout', 'files')}")
    print(f"{format_bytes(size)}, {format_bytes(size // max(count, 1))} an object")
    return 0
