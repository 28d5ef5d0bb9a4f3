"""``image-cache``: training on pictures that fit in memory, against the same with a tenth of the memory.

Both train one model by turns, some steps each, so that what else the machine does slows both alike. How much a training
with the cache holds is asked of a process of its own.

The pictures are the synthetic scene's, rendered small, enlarged, and given a grain that makes JPEG files of them nearly
as heavy as photographs.

    python benchmarks/large_captures.py '{"data": ..., "result": ...}'
"""

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import trainings

ENLARGED = 16
"""Pictures are rendered at 1/16 of their sides."""
BLOCK_STEPS = 25
"""Steps of a turn: one new picture of 8k, or twelve of 2k."""
MEMORY_STEPS = 60
"""Steps of the training whose memory is asked for."""


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
        recipe, seed, overrides: as in ``train_and_measure``.
        steps: of both together.

    Returns:
        ``size``, ``pictures``, ``decoded_bytes``, ``cache_bytes``, ``machine``, what `by_turns` found, and
        ``peak_memory_bytes`` of a training with the cache.
    """
    size = SIZES[name]
    data = folder / f"capture-{name}"
    if not (data / "transforms.json").exists():
        write_capture(data, size, seed=seed)
    decoded = size.pictures * size.width * size.height * 3
    settings = [*overrides, "capture.downscale=1", "trainer.evaluation_images=0", "trainer.checkpoint_every=1e6"]
    order = {"recipe": recipe, "data": str(data), "steps": steps, "seed": seed, "overrides": settings}
    with tempfile.TemporaryDirectory(prefix="voxfield-benchmark-") as temporary:
        result = Path(temporary) / "result.json"
        order |= {"cache_bytes": decoded // 10, "output": str(Path(temporary) / "run"), "result": str(result)}
        subprocess.run([sys.executable, str(Path(__file__)), json.dumps(order)], check=True)
        rates = json.loads(result.read_text(encoding="utf-8"))
    held = trainings.train_and_measure(
        data,
        recipe=recipe,
        steps=MEMORY_STEPS,
        seed=seed,
        overrides=[*settings, f"capture.cache_bytes={decoded // 10}"],
        evaluate=False,
    )
    about = {"size": name, "pictures": size.pictures, "decoded_bytes": decoded, "cache_bytes": decoded // 10}
    return {**about, **rates, "peak_memory_bytes": held["peak_memory_bytes"]}


class Decoding:
    """Watches the decoding of a store: the processor time it takes, and whether there is any."""

    def __init__(self, store: Any) -> None:
        self.seconds: list[float] = []
        """Processor time of every picture."""
        self._under_way, self._changed, self._decode = 0, threading.Condition(), store.decode
        store.decode = self._timed

    def wait(self) -> None:
        """Return when no picture is being decoded."""
        with self._changed:
            self._changed.wait_for(lambda: self._under_way == 0)

    def _timed(self, index: int) -> Any:
        with self._changed:
            self._under_way += 1
        began = time.thread_time()
        try:
            return self._decode(index)
        finally:
            with self._changed:
                self.seconds.append(time.thread_time() - began)
                self._under_way -= 1
                self._changed.notify_all()


class ByTurns:
    """Batches from two samplers, `BLOCK_STEPS` of one and then of the other, with the time each block took.

    Args:
        samplers: both.
        before_block: called within a block's time at its end, so that no work is left to the next.
    """

    def __init__(self, *samplers: Any, before_block: Callable[[], None]) -> None:
        self.samplers, self._before_block = samplers, before_block
        self.began: list[float] = []
        self.rays: list[int] = []

    def sample(self, num_rays: int, step: int) -> Any:
        """A batch of the sampler whose turn it is, of a step it has not had."""
        block, within = divmod(step, BLOCK_STEPS)
        if within == 0:
            self._before_block()
            self.began.append(time.perf_counter())
            self.rays.append(0)
        self.rays[-1] += num_rays
        turn, which = divmod(block, len(self.samplers))
        return self.samplers[which].sample(num_rays, turn * BLOCK_STEPS + within)

    def rates(self) -> list[list[float]]:
        """Rays a second of every block but the last, whose end is not known, for each sampler."""
        seconds = [after - before for before, after in zip(self.began[:-1], self.began[1:], strict=True)]
        blocks = [rays / second for rays, second in zip(self.rays[:-1], seconds, strict=True)]
        return [blocks[which :: len(self.samplers)] for which in range(len(self.samplers))]


def by_turns(order: dict[str, Any]) -> dict[str, Any]:
    """Train once with batches in turn from memory and from the cache.

    Returns:
        ``machine``; ``in_memory`` and ``cached``, the middle block's rays a second; ``ratio``, the middle of the ratios
        of neighbouring blocks, the first two left out; ``blocks``, all of them; ``decoding_seconds`` of a picture and
        ``step_seconds`` of a step without decoding, processor time of all threads; ``rotate_every``, steps a picture;
        ``processor_ratio``, what the ratio is if every core is busy.
    """
    from measuring import describe_machine

    from voxfield.data.capture_reading import read_capture
    from voxfield.data.ray_batches import RaySampler
    from voxfield.data.sliding_pool import SlidingPlan
    from voxfield.distributed.devices import place
    from voxfield.recipes import build_model, load_recipe
    from voxfield.recipes.rehearsal import compile_kernels
    from voxfield.training.experiment import resolve
    from voxfield.training.log import RunLog
    from voxfield.training.progress import Progress
    from voxfield.training.trainer import Trainer

    machine = describe_machine()
    experiment = resolve(load_recipe(order["recipe"], None), overrides=order["overrides"])
    trainer_settings = dataclasses.replace(experiment.trainer, steps=order["steps"], minutes=None)
    captures = [
        read_capture(order["data"], options=dataclasses.replace(experiment.capture, cache_bytes=cache))
        for cache in (10 * order["cache_bytes"] + 10, order["cache_bytes"])
    ]
    assert [capture.images.fits for capture in captures] == [True, False]
    placement = place("auto", "auto")
    output = Path(order["output"])
    with (
        Progress(quiet=True) as progress,
        RaySampler(captures[0], order["seed"], device=placement.device) as whole,
        RaySampler(captures[1], order["seed"], device=placement.device) as cached,
    ):
        compile_kernels(experiment.recipe, placement, progress, unbounded=captures[0].unbounded)
        model = build_model(experiment.recipe, experiment.model, captures[0], order["seed"]).to(placement.device)
        decoding = Decoding(captures[1].images)
        batches = ByTurns(whole, cached, before_block=decoding.wait)
        trainer = Trainer(model, batches, trainer_settings, run_dir=output, placement=placement, seed=order["seed"])
        with RunLog(output, resume_step=None, tensorboard=False) as log:
            began = time.process_time()
            trainer.train(log, progress)
            decoding.wait()
            training = time.process_time() - began - sum(decoding.seconds)
    blocks = [rates[1:] for rates in batches.rates()]
    ratios = [after / before for before, after in zip(*blocks, strict=False)]
    picture, step = statistics.mean(decoding.seconds), training / order["steps"]
    rotate_every = SlidingPlan.within_cache(captures[1].images).rotate_every
    return {
        "machine": machine,
        "decoding_seconds": picture,
        "step_seconds": step,
        "rotate_every": rotate_every,
        "processor_ratio": step * rotate_every / (step * rotate_every + picture),
        "in_memory": statistics.median(blocks[0]),
        "cached": statistics.median(blocks[1]),
        "ratio": statistics.median(ratios),
        "blocks": blocks,
    }


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


if __name__ == "__main__":
    work = json.loads(sys.argv[1])
    Path(work["result"]).write_text(json.dumps(by_turns(work)), encoding="utf-8")
