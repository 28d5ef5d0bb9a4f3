"""``image-cache``: training on pictures that fit in memory, against the same with a tenth of the memory.

The pictures are the synthetic scene's, rendered small, enlarged, and given a grain that makes JPEG files of them nearly
as heavy as photographs.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import trainings

ENLARGED = 16
"""Pictures are rendered at 1/16 of their sides."""


class Size(NamedTuple):
    """Pictures of one size."""

    width: int
    """Pixels, a multiple of `ENLARGED`, as the height is."""
    height: int
    pictures: int
    """Training pictures; every eighth of the capture's is held out besides."""


SIZES = {"8k": Size(5792, 8656, 10), "2k": Size(1440, 2160, 70)}
"""Those of the Eyeful Tower's data set, nearly."""


def measure(name: str, folder: Path, *, recipe: str, steps: int, seed: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Train on pictures of one size in memory and with a tenth of it.

    Args:
        name: of `SIZES`.
        folder: where the capture is made; one that is there already is used again.
        recipe, steps, seed, overrides: as in ``train_and_measure``.

    Returns:
        ``size``, ``decoded_bytes`` and the points ``in_memory`` and ``cached``, each with its ``cache_bytes``.
    """
    size = SIZES[name]
    data = folder / f"capture-{name}"
    if not (data / "transforms.json").exists():
        write_capture(data, size, seed=seed)
    decoded = size.pictures * size.width * size.height * 3
    points = {}
    for label, cache in (("in_memory", decoded), ("cached", decoded // 10)):
        settings = [*overrides, "capture.downscale=1", f"capture.cache_bytes={cache}", "trainer.evaluation_images=0"]
        point = trainings.train_and_measure(
            data, recipe=recipe, steps=steps, seed=seed, overrides=settings, evaluate=False
        )
        points[label] = {**point, "cache_bytes": cache}
    return {"size": name, "pictures": size.pictures, "decoded_bytes": decoded, **points}


def write_capture(folder: Path, size: Size, *, seed: int) -> None:
    """Write a nerfstudio capture of ``size.pictures`` training pictures and the held-out ones, as JPEG files."""
    import numpy as np
    from PIL import Image

    from voxfield.data.image_store import ImageStore
    from voxfield.data.synthetic import SyntheticScene, cameras_around, posed_images, write_nerfstudio

    count = next(total for total in range(size.pictures, 2 * size.pictures) if total - -(-total // 8) == size.pictures)
    cameras = cameras_around(count, resolution=size.width // ENLARGED)
    height = cameras.height.new_full((count,), size.height // ENLARGED)
    middle = cameras.principal.new_tensor([size.width / ENLARGED / 2, size.height / ENLARGED / 2]).expand(count, 2)
    cameras = dataclasses.replace(cameras, height=height, principal=middle)
    scene = SyntheticScene.example()
    small = [scene.picture(cameras, index) for index in range(count)]
    capture = dataclasses.replace(
        posed_images(count=1, resolution=8),
        cameras=cameras,
        images=ImageStore.from_tensors(small),
        names=tuple(str(index) for index in range(count)),
    )
    write_nerfstudio(folder, capture)
    grain = np.random.default_rng(seed).normal(0, 6, (2048, 2048, 3))
    grain = np.tile(grain.astype(np.int16), (-(-size.height // 2048), -(-size.width // 2048), 1))
    grain = grain[: size.height, : size.width]
    description = json.loads((folder / "transforms.json").read_text(encoding="utf-8"))
    for key in ("w", "h", "fl_x", "fl_y", "cx", "cy"):
        description[key] *= ENLARGED
    for frame in description["frames"]:
        path = folder / frame["file_path"]
        with Image.open(path) as image:
            white = Image.new("RGBA", image.size, "white")
            large = Image.alpha_composite(white, image).convert("RGB").resize((size.width, size.height))
        grainy = (np.asarray(large) + grain).clip(0, 255).astype(np.uint8)
        Image.fromarray(grainy).save(path.with_suffix(".jpg"), quality=90)
        path.unlink()
        frame["file_path"] = str(Path(frame["file_path"]).with_suffix(".jpg"))
    (folder / "transforms.json").write_text(json.dumps(description), encoding="utf-8")
