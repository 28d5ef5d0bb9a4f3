"""nerfstudio's nerfacto with its torch implementation, to be measured in turns (see ``alternation``).

Runs in an environment that has nerfstudio; nothing of Voxfield is needed there.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alternation import serve


def prepare(order: dict[str, Any]) -> Mapping[str, Callable[[int], Any]]:
    """A training as ``ns-train nerfacto`` sets it up on a CPU, with all its default settings.

    Args:
        order: data (a folder with a transforms.json), start_step, seed, chunk.
    """
    import torch

    _without_lpips()
    from nerfstudio.configs.method_configs import method_configs
    from nerfstudio.engine.callbacks import TrainingCallbackLocation

    config: Any = method_configs["nerfacto"]
    config.machine.device_type, config.machine.num_devices, config.machine.seed = "cpu", 1, order["seed"]
    config.mixed_precision, config.use_grad_scaler = False, False
    config.pipeline.model.implementation = "torch"
    config.data = config.pipeline.datamanager.data = config.pipeline.datamanager.dataparser.data = Path(order["data"])
    config.vis, config.output_dir, config.steps_per_save = "tensorboard", Path(tempfile.mkdtemp()), 10**9
    config.set_timestamp()
    torch.manual_seed(order["seed"])
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    model = trainer.pipeline.model
    step = order["start_step"]
    cameras = trainer.pipeline.datamanager.train_dataset.cameras
    image_rays = cameras.to("cpu").generate_rays(camera_indices=0, keep_shape=True).flatten()

    def train(steps: int) -> list[float]:
        nonlocal step
        trainer.pipeline.train()
        seconds = []
        for _ in range(steps):
            began = time.perf_counter()
            for callback in trainer.callbacks:
                callback.run_callback_at_location(step, location=TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
            trainer.train_iteration(step)
            for callback in trainer.callbacks:
                callback.run_callback_at_location(step, location=TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
            step += 1
            seconds.append(time.perf_counter() - began)
        return seconds

    def render(rays: int) -> float:
        trainer.pipeline.eval()
        first = max((len(image_rays) - rays) // 2, 0)
        chosen = image_rays[first : first + rays]
        began = time.perf_counter()
        with torch.no_grad():
            for start in range(0, rays, order["chunk"]):
                model(chosen[start : start + order["chunk"]])
        return time.perf_counter() - began

    settings = model.config
    return {
        "about": lambda _: {
            "version": _version("nerfstudio"),
            "torch": torch.__version__,
            "rays": config.pipeline.datamanager.train_num_rays_per_batch,
            "samples": [*settings.num_proposal_samples_per_ray, settings.num_nerf_samples_per_ray],
            "image_rays": len(image_rays),
        },
        "train": train,
        "render": render,
        "peak_memory_bytes": lambda _: _peak_memory_bytes(),
    }


def _without_lpips() -> None:
    """Keep the model from downloading the network of a metric that neither training nor rendering uses."""
    import torch
    import torchmetrics.image.lpip

    class Absent(torch.nn.Module):
        def __init__(self, *_: Any, **__: Any) -> None:
            super().__init__()

    torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity = Absent


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def _peak_memory_bytes() -> int:
    """Most memory this process has held at once, as ``measuring`` counts it."""
    status = Path("/proc/self/status")
    for line in status.read_text(encoding="utf-8").splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    serve(prepare)
