"""``voxfield bench``."""

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield bench --data path/to/capture --output bench.json"


def command(
    *,
    data: Annotated[Path | None, optional("DATA")] = None,
    recipe: Annotated[str, arg(metavar="RECIPE")] = "grid-ngp",
    steps: Annotated[int, arg(metavar="N")] = 300,
    device: Annotated[str, arg(metavar="NAME")] = "auto",
    seconds: Annotated[float, arg(metavar="S")] = 1.0,
    output: Annotated[Path | None, optional("FILE")] = None,
) -> int:
    """Measure the kernels' speed, and training's on your data.

    Kernels are measured on 2^18 points (the hash grid with 16 levels, 2^19 entries, 2 features), through the calls that
    training makes. Close other programs first.

    Args:
        data: a capture to train on for --steps; only kernels are measured without it.
        recipe: what to train on --data.
        steps: how long to train on --data. Early steps are slower than later ones, which skip empty space.
        device: auto, cpu, cuda, cuda:1, xpu or mps.
        seconds: how long each rate is measured for.
        output: also write everything measured to this JSON file.
    """
    from dataclasses import asdict

    from voxfield.cli.tables import format_kernel_speeds, format_rate
    from voxfield.errors import MissingFileError
    from voxfield.jobs.doctor import examine
    from voxfield.storage.atomic import write_json
    from voxfield.storage.remote import local, published

    capture = None if data is None else local(data)
    if capture is not None and not capture.exists():
        raise MissingFileError(f"--data {data}: there is no such capture.")
    if sys.stderr.isatty():
        print("Measuring kernels, about half a minute ...", file=sys.stderr)
    found = examine(device, scale=18, seconds=seconds)
    print(f"{found.device_name}, {found.threads} threads, {found.instructions}, torch {found.versions['torch']}")
    print()
    print(format_kernel_speeds(found.kernels))
    measured = asdict(found)
    if capture is not None:
        measured["training"] = training = _train(recipe, capture, steps, device)
        print()
        print(f"{recipe} on {data}, the last {training['steps_measured']} of {steps} steps:")
        rays, samples = format_rate(training["rays_per_second"]), training["samples_per_ray"]
        print(f"  {rays} training rays, {samples:.1f} samples a ray")
    if output is not None:
        with published(output) as file:
            write_json(file, measured)
        print(f"\nWrote  {output}")
    return 0 if found.healthy else 1


def _train(recipe: str, data: Path, steps: int, device: str) -> dict[str, float]:
    """Train into a folder that is thrown away; the steady state is what the last half of the log says."""
    import statistics
    import tempfile

    import voxfield
    from voxfield.storage.run_log import read_log

    with tempfile.TemporaryDirectory(prefix="voxfield-bench-") as folder:
        voxfield.train(recipe, data, output=Path(folder) / "run", steps=steps, device=device, quiet=True)
        lines = [line for line in read_log(Path(folder) / "run") if line["kind"] == "train"]
    late = [line for line in lines if line["step"] > steps / 2] or lines[-1:]
    return {
        "steps": steps,
        "steps_measured": steps - steps // 2,
        "rays_per_second": statistics.median(line["rays_per_second"] for line in late),
        "samples_per_ray": statistics.median(line["samples_per_ray"] for line in late),
    }
