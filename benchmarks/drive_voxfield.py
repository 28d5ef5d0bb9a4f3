"""Voxfield's nerfacto, to be measured in turns (see ``alternation``)."""

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alternation import serve


def prepare(order: dict[str, Any]) -> Mapping[str, Callable[[int], Any]]:
    """A training as ``voxfield train nerfacto`` sets it up, with all its default settings.

    Args:
        order: data, start_step, seed, chunk.
    """
    import torch
    from measuring import peak_memory_bytes

    import voxfield
    from voxfield.data.capture_reading import read_capture
    from voxfield.data.ray_batches import RaySampler
    from voxfield.distributed.devices import place
    from voxfield.kernels.threads import kernels_own_the_cores
    from voxfield.recipes import build_model, load_recipe
    from voxfield.recipes.rehearsal import compile_kernels
    from voxfield.training.progress import Progress
    from voxfield.training.trainer import Trainer

    placement = place("cpu", "auto")
    experiment = load_recipe("nerfacto", None)
    captures = read_capture(Path(order["data"]), options=experiment.capture)
    compile_kernels("nerfacto", placement, Progress(quiet=True))
    model: Any = build_model("nerfacto", experiment.model, captures, order["seed"])
    sampler = RaySampler(captures, order["seed"], device=placement.device).__enter__()
    run_dir = Path(tempfile.gettempdir())
    trainer = Trainer(model, sampler, experiment.trainer, run_dir=run_dir, placement=placement, seed=order["seed"])
    trainer.step = order["start_step"]
    background = torch.zeros(3)
    image_rays = captures.cameras.image_rays(0)

    def train(steps: int) -> list[float]:
        seconds = []
        with kernels_own_the_cores():
            for _ in range(steps):
                began = time.perf_counter()
                # The trainer's own step, without log, evaluation and checkpoints, which the other side does not do.
                trainer._one_step(None)
                trainer.step += 1
                seconds.append(time.perf_counter() - began)
        return seconds

    def render(rays: int) -> float:
        # From the middle of a picture, where there is something to see.
        first = max((len(image_rays) - rays) // 2, 0)
        chosen = image_rays[first : first + rays]
        began = time.perf_counter()
        with torch.inference_mode(), kernels_own_the_cores():
            for start in range(0, rays, order["chunk"]):
                model.render_rays(chosen[start : start + order["chunk"]], background=background)
        return time.perf_counter() - began

    config = model.config
    return {
        "about": lambda _: {
            "version": voxfield.__version__,
            "torch": torch.__version__,
            "rays": model.batch_size(),
            "samples": [config.coarse_proposal.num_samples, config.fine_proposal.num_samples, config.num_samples],
            "image_rays": len(image_rays),
        },
        "train": train,
        "render": render,
        "peak_memory_bytes": lambda _: peak_memory_bytes(),
    }


if __name__ == "__main__":
    serve(prepare)
