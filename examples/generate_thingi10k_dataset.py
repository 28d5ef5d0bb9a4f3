"""A voxel dataset of Thingi10K, downloaded through its own package: pip install "voxfield[neural-rendering]".

python examples/generate_thingi10k_dataset.py --num-objects 100 --output-dir dataset
voxfield dataset trace dataset --layout packed
"""

import argparse
from pathlib import Path

import voxfield
from voxfield.jobs.thingi10k import thingi10k_meshes


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--num-objects", type=int, default=100)
    options.add_argument("--start-object", type=int, default=0)
    options.add_argument("--output-dir", type=Path, default=Path("dataset"))
    options.add_argument("--resolution", type=int, default=128)
    options.add_argument("--min-resolution", type=int, default=4)
    options.add_argument("--download-dir", type=Path, help="where the thingi10k package keeps its files")
    given = options.parse_args()
    meshes = thingi10k_meshes(given.num_objects, start_object=given.start_object, cache=given.download_dir)
    built = voxfield.build_shapes(
        meshes, given.output_dir, resolution=given.resolution, min_resolution=given.min_resolution
    )
    for item in built.failures:
        print(f"Left out {item.path}: {item.reason}")
    print(f"{built.objects} objects in {built.output}")


if __name__ == "__main__":
    main()
