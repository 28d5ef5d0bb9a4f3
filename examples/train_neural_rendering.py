"""Train raynet on a dataset and its rays, measure it on blocks that it has not seen, and picture some shapes.

    python examples/train_neural_rendering.py --dataset-dir dataset --ray-dataset-dir rays --epochs 10

The same as ``voxfield train raynet dataset``, ``voxfield eval`` and ``voxfield render``. For a model of your own, begin
with ``dataset_usage_example.py``.
"""

from pathlib import Path

from shape_folders import parser

import voxfield
from voxfield.data.shape_batches import ShapeRayOptions, open_ray_split, resolve_options
from voxfield.recipes import load_recipe


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--epochs", type=int, default=10, help="times that every ray is seen, on average")
    options.add_argument("--level", type=int, help="level of the blocks; the first of at most 16 voxels when not given")
    options.add_argument("--output", type=Path, default=Path("runs/raynet"))
    options.add_argument("--set", dest="settings", action="append", default=[], metavar="PATH=VALUE")
    given = options.parse_args()

    chosen = resolve_options(given.dataset_dir, ShapeRayOptions(rays=str(given.ray_dataset_dir), level=given.level))
    dataset = open_ray_split(given.dataset_dir, chosen, "train", held_out=False)
    rays = sum(dataset.num_rays(index) for index in range(len(dataset)))
    steps = max(1, given.epochs * rays // load_recipe("raynet").model.rays_per_batch)
    print(f"{len(dataset):,} blocks, {rays:,} rays: {steps:,} steps")

    run = voxfield.train(
        "raynet",
        given.dataset_dir,
        output=given.output,
        steps=steps,
        overrides=[f"data.rays={chosen.rays}", f"data.level={chosen.level}", *given.settings],
    )
    metrics = run.evaluate(split="val")
    for part in ("seen", "unseen"):
        if metrics[part]:
            print(f"{part:6}  F1 {metrics[part]['hit_f1']:.4f}, chord off by {metrics[part]['chord_mae']:.3f} voxels")
    assert isinstance(run, voxfield.ShapeRun)
    for picture in run.render_shapes(split="val"):
        print(f"Wrote  {picture}")


if __name__ == "__main__":
    main()
