"""``raynet``: what a network of rays says of rays that it was not trained on, of blocks that it was and was not."""

import argparse
import json
from pathlib import Path
from typing import Any

from measuring import measured_row

HELP = "hits, depth and chord of a raynet run, on held-out rays of seen and unseen blocks"
BARS = {"seen": {"hit_f1": 0.95, "chord_mae_diagonal": 0.02}}
"""What is aimed at: at least such an F1, at most such a share of the diagonal."""
FIGURES = {
    "hit_f1": ("hit F1", ""),
    "hit_precision": ("hit precision", ""),
    "hit_recall": ("hit recall", ""),
    "depth_mae": ("mean error of depth", "voxels"),
    "chord_mae": ("mean error of the chord", "voxels"),
    "chord_mae_diagonal": ("the same, share of the block's diagonal", ""),
}
RAYS = {"seen": "held-out rays of {blocks} blocks trained on", "unseen": "rays of {blocks} other blocks"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``raynet``."""
    parser.add_argument("--run", type=Path, required=True, help="a raynet run")
    parser.add_argument("--split", default="val", choices=["val", "test"], help="whose blocks are the other ones")
    parser.add_argument("--measured", action="store_true", help="take what `voxfield eval` wrote into the run")


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Evaluate the run, or read what was, and lay it out."""
    if options.measured:
        found = json.loads((options.run / "eval" / options.split / "metrics.json").read_text(encoding="utf-8"))
    else:
        import voxfield

        found = voxfield.open(options.run).evaluate(split=options.split)
    return rows(found)


def rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of what `voxfield eval` writes of such a run; of rays that there are not, none."""
    made = []
    for kind, words in RAYS.items():
        measures = found[kind]
        if measures is None:
            continue
        on = words.format(blocks=f"{measures['num_blocks']:,}")
        for name, (what, unit) in FIGURES.items():
            bar = BARS.get(kind, {}).get(name)
            made.append(measured_row(f"{on}: {what}", measures[name], unit, bar=bar))
    return made
