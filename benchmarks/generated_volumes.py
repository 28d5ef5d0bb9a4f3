"""``diffusion``: what a diffusion run makes, measured against real volumes, beside baselines and beside real ones."""

import argparse
import json
from pathlib import Path
from typing import Any

HELP = "coverage, distances and 1-NN accuracy of a diffusion's samples, beside baselines and real volumes"
WHO = {
    "generated": "generated",
    "training": "as many that were trained on",
    "mean_shape": "mean shape",
    "noise": "noise",
}
MEASURES = ("coverage", "mmd", "one_nn_accuracy", "jsd", "frechet", "iou_nearest", "occupancy")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``diffusion``."""
    parser.add_argument("--run", type=Path, required=True, help="a diffusion run")
    parser.add_argument(
        "--split", default="test", choices=["train", "val", "test"], help="real volumes to compare with"
    )
    parser.add_argument("--samples", type=Path, help="folder of `voxfield sample diffusion --reference`, already there")


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Read what was measured of a folder of samples, or evaluate the run on a split, and lay it out."""
    if options.samples is not None:
        file = options.samples / "metrics.json"
        if not file.is_file():
            raise SystemExit(f"diffusion: {file} is not there. Draw samples with --reference, or leave --samples out.")
        return rows(json.loads(file.read_text(encoding="utf-8")))
    import voxfield

    return rows(voxfield.open(options.run).evaluate(split=options.split))


def rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """A row of each kind of volumes, with ``nearest``, the mean distance to the training volume most like one, and
    ``copies``, where these were measured; the last one has the occupancy of the real volumes compared with.
    """
    sets = {"generated": found["generated"], "training": found["training"], **found["baselines"]}
    made = [
        {"what": words, **{measure: sets[name][measure] for measure in MEASURES}, "nearest": None, "copies": None}
        for name, words in WHO.items()
    ]
    real = {"what": "the real ones", **dict.fromkeys(MEASURES), "occupancy": found["reference"]["occupancy"]}
    nearest = found["nearest_training"]
    for row, name in ((made[0], "generated"), (real, "reference")):
        row.update(nearest=nearest[name]["mean"], copies=nearest[name]["copies"])
    sizes = found["protocol"]
    for row, name in ((made[0], "generated"), (real, "reference")):
        row["what"] = f"{row['what']}, {sizes[name]}"
    return [*made, real]
