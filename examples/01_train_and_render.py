"""Train a field on the embedded scene, measure it on held-out pictures, and render an orbit.

    python examples/01_train_and_render.py [minutes]

The command line does the same: voxfield train, voxfield eval, voxfield render.
"""

import sys
from pathlib import Path

import voxfield

SCENE = Path(__file__).parent / "scenes" / "workbench"


def main(minutes: float = 2.0) -> None:
    run = voxfield.train("grid-ngp", SCENE, output="runs/example-01", minutes=minutes)

    metrics = run.evaluate(split="test")
    print(f"PSNR {metrics['psnr']:.2f} dB, SSIM {metrics['ssim']:.3f} on {metrics['num_images']} held-out pictures")

    for file in run.render_path("orbit", seconds=3, width=256, height=256):
        print("wrote", file)


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
