"""Show which levels of a pyramid a scene is seen at: from as near as a held-out picture was taken, and from far away.

    python examples/02_pyramid_levels.py RUN [levels.jpg]

RUN is one of pynerf, pynerf-synthetic or pynerf-occupancy-grid. Warm colours are fine levels, cold ones coarse.
"""

import dataclasses
import sys

import numpy as np
import torch
from PIL import Image

import voxfield
from voxfield.geometry.camera import Cameras

WIDTH = 240
COLD_TO_WARM = np.array([[48, 18, 59], [65, 69, 171], [57, 162, 252], [27, 229, 181], [164, 252, 60],
                         [251, 185, 56], [227, 68, 10], [122, 4, 2]]) / 255  # fmt: skip


def seen_from(cameras: Cameras, times_as_far: float, width: int) -> Cameras:
    """The first camera, moved away from the world's middle, with pictures ``width`` pixels wide."""
    pose = cameras.camera_to_world[:1].clone()
    pose[:, :, 3] *= times_as_far
    height = round(width * int(cameras.height[0]) / int(cameras.width[0]))
    factor = width / int(cameras.width[0])
    return dataclasses.replace(
        cameras,
        camera_to_world=pose,
        focal=cameras.focal[:1] * factor,
        principal=cameras.principal[:1] * factor,
        width=torch.tensor([width]),
        height=torch.tensor([height]),
        distortion=None,
    )


def painted(level: np.ndarray, shown: np.ndarray, highest: int) -> np.ndarray:
    """(H, W, 3) colours of levels (H, W) from 0 to ``highest``, white where nothing is ``shown``."""
    at = np.clip(level / highest, 0, 1) * (len(COLD_TO_WARM) - 1)
    below = np.minimum(at.astype(int), len(COLD_TO_WARM) - 2)
    share = (at - below)[..., None]
    colours = (1 - share) * COLD_TO_WARM[below] + share * COLD_TO_WARM[below + 1]
    return np.where(shown[..., None], colours, 1.0)


def main(run: str, output: str = "levels.jpg") -> None:
    trained = voxfield.open(run)
    if getattr(trained.experiment.model, "pyramid", None) is None:
        sys.exit(f"{run}: a run of {trained.experiment.recipe} has no pyramid. Name one of pynerf.")
    highest = trained.experiment.model.pyramid.num_levels - 1
    test = trained.split("test").cameras
    rows: list[list[np.ndarray]] = [[], []]
    # The same picture in full, at a quarter of its pixels, and from three times as far.
    for far, width in ((1.0, WIDTH), (1.0, WIDTH // 4), (3.0, WIDTH)):
        seen = trained.render(seen_from(test, far, width))
        level = painted(seen["level"].numpy(), seen["opacity"].numpy() > 0.5, highest)
        for row, picture in zip(rows, (seen["rgb"].numpy(), level), strict=True):
            enlarge = WIDTH // width
            row.append(np.clip(picture, 0, 1).repeat(enlarge, axis=0).repeat(enlarge, axis=1))
        met = seen["opacity"] > 0.5
        average = f"level {float(seen['level'][met].mean()):.2f} on average" if met.any() else "nothing to be seen yet"
        print(f"{far:g} times as far, {width} pixels wide: {average}")
    legend = painted(np.linspace(0, highest, 3 * WIDTH)[None].repeat(14, 0), np.ones((14, 3 * WIDTH), bool), highest)
    pixels = np.concatenate([*(np.concatenate(row, axis=1) for row in rows), legend])
    Image.fromarray((pixels * 255).round().astype(np.uint8)).save(output, quality=88)
    print("wrote", output)


if __name__ == "__main__":
    main(*sys.argv[1:3])
