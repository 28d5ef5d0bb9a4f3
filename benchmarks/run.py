"""Benchmarks: what this code does on this machine, written down so that others can compare.

    python benchmarks/run.py kernels [OP ...] [--no-tests] [--seconds S]
    python benchmarks/run.py train-curve --data PATH [--minutes 1,5,20,full] [--run RUN ...] [--keep DIR]
    python benchmarks/run.py scales --data PATH [--minutes 20] [--recipes pynerf,grid-ngp] | --run RUN [--run RUN ...]
    python benchmarks/run.py rates --data PATH [--minutes 2] | --run RUN
    python benchmarks/run.py memory --data PATH [--steps 300]
    python benchmarks/run.py ranks --data PATH [--ranks 2] [--steps 200] [--recipes grid-ngp,nerfacto]
    python benchmarks/run.py image-cache [SIZE ...] [--steps 400] [--captures DIR]
    python benchmarks/run.py nerfstudio --data PATH --nerfstudio-python PYTHON
    python benchmarks/run.py volumes --data DIR [FILE ...] [--errors 0.01,0.02,0.05] [--steps 300]
    python benchmarks/run.py voxel-grid --run RUN [--thin 5,15] [--errors 0.01,0.02] [--max-images N]
    python benchmarks/run.py mesh --run RUN [--resolution 256] [--triangles 200000] [--texture 2048] [--from density]
    python benchmarks/run.py prerender
    python benchmarks/run.py shapes [PART ...] --meshes DIR [--keep DIR]
    python benchmarks/run.py viewer [--run RUN] [--browser]
    python benchmarks/run.py html --run RUN [--max-images N]
    python benchmarks/run.py vdb [PART ...]
    python benchmarks/run.py diffusion --run RUN [--samples DIR]
    python benchmarks/run.py raynet --run RUN
    python benchmarks/run.py steps --data PATH [--recipes grid-ngp,pynerf-occupancy-grid]
    python benchmarks/run.py startup [RECIPE ...]
    python benchmarks/run.py regression [--write]
    python benchmarks/run.py results-page

Each writes a JSON file and a Markdown table into ``benchmarks/results/`` (``--output`` names another file) and prints
the table under a line that names the machine. ``results-page`` makes ``docs/results.md``, its curve and the README's
table from those files. Close other programs first; where that is not possible, say so beside the numbers.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import equal_samples
import generated_volumes
import kernel_rates
import large_captures
import mesh_views
import pages
import prerendering
import rank_rates
import ray_networks
import registry
import regression
import shapes
import side_by_side
import startup
import trainings
import vdb_files
import viewing
import volume_codecs
import voxel_grids
import web_pages
from alternation import DriverError
from measuring import describe_machine, machine_line
from trainings import data_name

from voxfield.errors import VoxfieldError

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SCHEMA_VERSION = 1
ROWS: dict[str, ModuleType] = {
    "viewer": viewing,
    "html": web_pages,
    "vdb": vdb_files,
    "diffusion": generated_volumes,
    "raynet": ray_networks,
    "steps": equal_samples,
}
"""Verbs whose result is a table of rows: modules with ``HELP``, ``add_options(parser)`` and ``measure(options)``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark; 0, or 1 when what it measures failed."""
    words = list(sys.argv[1:] if argv is None else argv)
    options = build_parser().parse_args(words)
    try:
        options.action(options, shown_command(words))
    except (kernel_rates.TestsFailedError, DriverError, VoxfieldError) as error:
        print(error, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print((error.stderr or "").strip()[-2000:] or f"A measured process failed: {error}", file=sys.stderr)
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="kind", required=True, metavar="WHAT")

    kernels = verbs.add_parser("kernels", help="rates of the kernels, beside plain torch's; their tests run first")
    kernels.add_argument("ops", nargs="*", type=parse_op, metavar="OP", help="only these kernels")
    kernels.add_argument("--no-tests", action="store_true", help="measure without testing first")
    kernels.add_argument("--seconds", type=float, default=1.0, help="how long to measure each case")
    kernels.set_defaults(action=run_kernels)

    curve = verbs.add_parser("train-curve", help="test PSNR after trainings of several lengths")
    curve.add_argument("--minutes", type=parse_budgets, default=None, help="list such as 1,5,20,full")
    curve.add_argument("--run", type=Path, dest="runs", action="append", default=[], help="measure this run too")
    curve.set_defaults(action=run_train_curve)

    scales = verbs.add_parser(
        "scales", help="test PSNR scale by scale, of recipes trained alike on pictures of four scales"
    )
    scales.add_argument("--minutes", type=float, default=20.0, help="how long to train each")
    scales.add_argument("--recipes", default="pynerf,grid-ngp", help="what to train")
    scales.add_argument("--run", type=Path, dest="runs", action="append", default=[], help="measure this run instead")
    scales.set_defaults(action=run_scales)

    rates = verbs.add_parser("rates", help="training and rendering speed in the steady state")
    rates.add_argument("--minutes", type=float, default=2.0, help="how long to train first")
    rates.add_argument("--run", type=Path, help="take this run instead of training")
    rates.set_defaults(action=run_rates)

    memory = verbs.add_parser("memory", help="peak memory of a training")
    memory.add_argument("--steps", type=int, default=300, help="how long to train")
    memory.set_defaults(action=run_memory)

    add_ranks(verbs)
    cache = verbs.add_parser("image-cache", help="training on more pictures than memory holds, against in memory")
    cache.add_argument("sizes", nargs="*", choices=[*large_captures.SIZES, []], metavar="SIZE", help="8k, 2k; or both")
    cache.add_argument("--steps", type=int, default=400, help="how long to train, both together")
    cache.add_argument("--captures", type=Path, help="make the pictures in this folder, and keep them for another time")
    cache.set_defaults(action=run_image_cache)

    beside = verbs.add_parser("nerfstudio", help="nerfstudio's nerfacto and ours, in turns on one capture")
    beside.add_argument("--data", type=Path, required=True, help="a capture: a folder or its JSON file")
    beside.add_argument("--nerfstudio-python", help="interpreter of an environment with nerfstudio 1.1.5")
    beside.add_argument("--rounds", type=int, default=5, help="turns of each")
    beside.add_argument("--steps", type=int, default=5, help="training steps a turn")
    beside.add_argument("--rays", type=int, default=16384, help="rays rendered a turn")
    beside.add_argument("--start-step", type=int, default=0, help="number of the first step; 5000: the late schedule")
    beside.set_defaults(action=run_nerfstudio)

    for trained in (curve, rates, memory, cache):
        trained.add_argument("--recipe", default="grid-ngp")
    for trained in (curve, scales, rates, memory, cache):
        trained.add_argument("--seed", type=int, default=42)
        trained.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
    for trained in (curve, scales, rates, memory):
        trained.add_argument("--data", type=Path, help="a capture: a folder or its JSON file")
        trained.add_argument("--max-images", type=int, help="measure only this many test views")
        trained.add_argument("--keep", type=Path, help="keep the run directories in this folder")

    add_volumes(verbs)
    add_mesh(verbs)
    voxels = verbs.add_parser("prerender", help="point clouds to voxels, and reading them back")
    voxels.add_argument("--samples", type=int, default=100, help="clouds that the command renders")
    voxels.set_defaults(action=run_prerender)

    add_shapes(verbs)
    add_rows(verbs)
    start = verbs.add_parser("startup", help="import, --help, first compilation")
    start.add_argument("recipes", nargs="*", default=startup.RECIPES, metavar="RECIPE", help="whose kernels")
    start.set_defaults(action=run_startup)
    slower = verbs.add_parser("regression", help="all kernels and small runs of all jobs, beside the committed rates")
    slower.add_argument("--write", action="store_true", help="write the rates that others are compared with")
    slower.add_argument("--seconds", type=float, default=0.3, help="how long to measure each kernel")
    slower.set_defaults(action=run_regression)
    verbs.add_parser("results-page", help="make docs/results.md").set_defaults(action=write_results_page)
    for verb in verbs.choices.values():
        verb.add_argument("--output", type=Path, help="the JSON file to write")
    return parser


def add_rows(verbs: Any) -> None:
    """`ROWS` on the command line."""
    for name, module in ROWS.items():
        verb = verbs.add_parser(name, help=module.HELP)
        module.add_options(verb)
        verb.set_defaults(action=run_rows)


def add_mesh(verbs: Any) -> None:
    """``mesh`` on the command line."""
    mesh = verbs.add_parser("mesh", help="test PSNR of a run's exported, textured mesh")
    mesh.add_argument("--run", type=Path, required=True, help="a run on photographs")
    mesh.add_argument("--from", dest="source", choices=["density", "depth"], default="density")
    mesh.add_argument("--resolution", type=int, default=256)
    mesh.add_argument("--triangles", type=int, default=200_000)
    mesh.add_argument("--texture", type=int, default=2048)
    mesh.add_argument("--max-images", type=int, help="measure only this many test views")
    mesh.add_argument("--keep", type=Path, help="keep the mesh and pictures of the views in this folder")
    mesh.set_defaults(action=run_mesh)


def add_volumes(verbs: Any) -> None:
    """``volumes`` and ``voxel-grid`` on the command line."""
    volumes = verbs.add_parser("volumes", help="sizes and speeds of compressed volumes, per file")
    volumes.add_argument("files", nargs="*", metavar="FILE", help="names without ending; all where left out")
    volumes.add_argument("--data", type=Path, required=True, help="a folder of .vdb files")
    volumes.add_argument("--errors", type=parse_errors, default=[0.01, 0.02, 0.05], help="shares of the range")
    volumes.add_argument("--steps", type=int, default=1000, help="of a network's training")
    volumes.add_argument("--codecs", nargs="+", default=["quantised", "neural"], choices=["quantised", "neural"])
    volumes.add_argument("--note", default="", help="a sentence for the page")
    volumes.set_defaults(action=run_volumes)

    grid = verbs.add_parser("voxel-grid", help="bytes of a plenoxels run's grid as files, and the PSNR they cost")
    grid.add_argument("--run", type=Path, required=True, help="a plenoxels run; measures go into its eval folder")
    grid.add_argument("--thin", type=parse_densities, default=[5.0, 15.0], help="densities up to which voxels go")
    grid.add_argument("--errors", type=parse_errors, default=[0.01, 0.02], help="shares of the range, quantised")
    grid.add_argument("--neural-errors", type=parse_errors, default=[], help="the same, neural: minutes each")
    grid.add_argument("--steps", type=int, default=1000, help="of a network's training")
    grid.add_argument("--max-images", type=int, help="measure only this many test views")
    grid.set_defaults(action=run_voxel_grid)


def add_shapes(verbs: Any) -> None:
    """The options of ``shapes``."""
    blocks = verbs.add_parser("shapes", help="voxelising, building, following and loading rays of shapes")
    blocks.add_argument("parts", nargs="*", choices=[*shapes.PARTS, []], metavar="PART", help="only these")
    blocks.add_argument("--meshes", type=Path, required=True, help="a folder of meshes, armadillo.obj among them")
    blocks.add_argument("--keep", type=Path, help="make what is loaded in this folder, and keep it for another time")
    blocks.set_defaults(action=run_shapes)


def parse_budgets(text: str) -> list[float | None]:
    """``"1,5,full"`` to minutes, None for the full recipe."""
    budgets: list[float | None] = []
    for word in text.split(","):
        if word.strip() == "full":
            budgets.append(None)
            continue
        try:
            minutes = float(word)
        except ValueError:
            minutes = 0.0
        if not 0 < minutes < 1e6:
            raise argparse.ArgumentTypeError(f"expected minutes above 0 or 'full', separated by commas, got {word!r}")
        budgets.append(minutes)
    return budgets


def parse_densities(text: str) -> list[float]:
    """``"5,15"`` to densities."""
    try:
        densities = [float(word) for word in text.split(",")]
    except ValueError:
        densities = []
    if not densities or not all(0 <= density < 1e9 for density in densities):
        raise argparse.ArgumentTypeError(f"expected numbers from 0, separated by commas, got {text!r}")
    return densities


def parse_errors(text: str) -> list[float]:
    """``"0.01,0.05"`` to shares of a range."""
    try:
        errors = [float(word) for word in text.split(",")]
    except ValueError:
        errors = []
    if not errors or not all(0 < error < 1 for error in errors):
        raise argparse.ArgumentTypeError(f"expected shares between 0 and 1, separated by commas, got {text!r}")
    return errors


def parse_op(text: str) -> str:
    """The name of a measured kernel."""
    if text not in registry.ops():
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(registry.ops())}, got {text!r}")
    return text


def shown_command(words: Sequence[str]) -> str:
    """The command for the results file: folders of this machine are left out, they mean nothing elsewhere."""
    shown = [Path(word).name if Path(word).is_absolute() or ".." in Path(word).parts else word for word in words]
    return shlex.join(["python", "benchmarks/run.py", *shown])


def run_kernels(options: argparse.Namespace, command: str) -> None:
    """``kernels``."""
    ops = options.ops or registry.ops()
    machine = describe_machine()  # before the tests: their load is not the machine's
    if not options.no_tests:
        kernel_rates.run_tests(ops)
    print(machine_line(machine))
    rows = kernel_rates.measure(ops, options.seconds)
    write(options, {"kind": "kernels", "commands": [command], "machine": machine, "rows": rows}, "kernels")


def run_train_curve(options: argparse.Namespace, command: str) -> None:
    """``train-curve``: points are added to what the file holds already, so that they can be measured one by one."""
    if options.data is None and not options.runs:
        raise SystemExit("train-curve: name a capture with --data, or runs with --run.")
    budgets = options.minutes or ([1.0, 5.0, 20.0] if not options.runs else [])
    if budgets and options.data is None:
        raise SystemExit("train-curve: --minutes needs --data.")
    name = data_name(options.data) if options.data is not None else run_data_name(options.runs[0])
    recipe = run_recipe(options.runs[0]) if options.runs else options.recipe
    path = options.output or RESULTS / f"train-curve-{name}-{recipe}.json"
    held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"points": [], "commands": []}

    def add(point: dict[str, Any]) -> None:
        held["points"] = trainings.merge_points(held["points"], [{**point, "command": command}])
        # Those of points that are still there.
        held["commands"] = list(dict.fromkeys(point["command"] for point in held["points"]))
        # After every training: an hour's work must not hang on the next one.
        write(options, {**held, "kind": "train-curve", "name": name, "recipe": recipe}, path.stem)

    for run in options.runs:
        add(trainings.measure_existing(run, max_images=options.max_images))
    for minutes in budgets:
        add(trainings.train_and_measure(options.data, minutes=minutes, **training_options(options)))


def run_scales(options: argparse.Namespace, command: str) -> None:
    """``scales``: points of recipes, added to what the file holds already; each was trained on, and is measured at,
    scales 1, 2, 4 and 8.
    """
    if (options.data is None) == (not options.runs):
        raise SystemExit("scales: name a capture with --data, or runs with --run.")
    name = data_name(options.data) if options.data is not None else run_data_name(options.runs[0])
    path = options.output or RESULTS / f"scales-{name}.json"
    points = json.loads(path.read_text(encoding="utf-8"))["points"] if path.exists() else []

    def add(point: dict[str, Any], recipe: str) -> None:
        points[:] = trainings.merge_points(points, [{**point, "recipe": recipe, "command": command}])
        commands = list(dict.fromkeys(point["command"] for point in points))
        write(options, {"kind": "scales", "name": name, "commands": commands, "points": points}, path.stem)

    for run in options.runs:
        add(trainings.measure_existing(run, max_images=options.max_images), run_recipe(run))
    if options.data is not None:
        for recipe in options.recipes.split(","):
            given = training_options(argparse.Namespace(**{**vars(options), "recipe": recipe}))
            given["overrides"] = ["capture.scales=1,2,4,8", *options.overrides]
            add(trainings.train_and_measure(options.data, minutes=options.minutes, **given), recipe)


def run_rates(options: argparse.Namespace, command: str) -> None:
    """``rates``."""
    if (options.data is None) == (options.run is None):
        raise SystemExit("rates: name a capture with --data, or a run with --run.")
    if options.run is not None:
        name, point = run_data_name(options.run), trainings.measure_existing(options.run, max_images=options.max_images)
    else:
        name = data_name(options.data)
        point = trainings.train_and_measure(options.data, minutes=options.minutes, **training_options(options))
    write(options, {"kind": "rates", "name": name, "commands": [command], "points": [point]}, f"rates-{name}")


def run_memory(options: argparse.Namespace, command: str) -> None:
    """``memory``."""
    if options.data is None:
        raise SystemExit("memory: name a capture with --data.")
    name = data_name(options.data)
    point = trainings.train_and_measure(options.data, steps=options.steps, evaluate=False, **training_options(options))
    write(options, {"kind": "memory", "name": name, "commands": [command], "points": [point]}, f"memory-{name}")


def add_ranks(verbs: Any) -> None:
    """The options of ``ranks``."""
    ranks = verbs.add_parser("ranks", help="speed of several processes that train together, against one's")
    ranks.add_argument("--data", type=Path, required=True, help="a capture: a folder or its JSON file")
    ranks.add_argument("--ranks", type=int, default=2, help="processes, one core each")
    ranks.add_argument("--recipes", default="grid-ngp,nerfacto", help="what to train")
    ranks.add_argument("--steps", type=int, default=200, help="how long to train")
    ranks.add_argument("--rounds", type=int, default=3, help="trainings of each")
    ranks.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
    ranks.set_defaults(action=run_ranks)


def run_ranks(options: argparse.Namespace, command: str) -> None:
    """``ranks``."""
    machine, name = describe_machine(), data_name(options.data)
    rows = rank_rates.measure(
        options.data,
        options.recipes.split(","),
        ranks=options.ranks,
        steps=options.steps,
        rounds=options.rounds,
        overrides=options.overrides,
    )
    result = {"kind": "ranks", "name": name, "commands": [command], "machine": machine, "rows": rows}
    write(options, result, f"ranks-{name}")


def run_image_cache(options: argparse.Namespace, command: str) -> None:
    """``image-cache``."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="voxfield-captures-") as temporary:
        for size in options.sizes or large_captures.SIZES:
            row = large_captures.measure(
                size,
                options.captures or Path(temporary),
                recipe=options.recipe,
                steps=options.steps,
                seed=options.seed,
                overrides=options.overrides,
            )
            rows.append(row)
    write(options, {"kind": "image-cache", "commands": [command], "points": rows}, "image-cache")


def run_nerfstudio(options: argparse.Namespace, command: str) -> None:
    """``nerfstudio``."""
    if options.nerfstudio_python is None:
        print("nerfstudio: not measured. Name an environment that has it with --nerfstudio-python.")
        return
    machine = describe_machine()
    systems = side_by_side.compare(
        options.data,
        options.nerfstudio_python,
        rounds=options.rounds,
        steps=options.steps,
        rays=options.rays,
        start_step=options.start_step,
    )
    result = {"kind": "nerfstudio", "name": data_name(options.data), "commands": [command], "machine": machine}
    write(options, {**result, "start_step": options.start_step, "systems": systems}, "nerfstudio")


def run_volumes(options: argparse.Namespace, command: str) -> None:
    """``volumes``: files are added to what is there already, so that they can be measured one by one."""
    files = volume_codecs.sample_files(options.data, options.files)
    if not files:
        raise SystemExit(f"volumes: {options.data} has no such .vdb file.")
    machine = describe_machine()
    rows = volume_codecs.measure(files, errors=options.errors, steps=options.steps, codecs=options.codecs)
    path = options.output or RESULTS / "volumes.json"
    held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"points": [], "commands": []}
    new = {(row["file"], row["codec"], row["goal"]) for row in rows}
    kept = [row for row in held["points"] if (row["file"], row["codec"], row["goal"]) not in new]
    points = [*kept, *({**row, "machine": machine} for row in rows)]
    points.sort(key=lambda row: (row["kind"], row["file"], row["codec"] == "neural", row["goal"] != "RMSE 0.5%"))
    commands = list(dict.fromkeys([*held["commands"], command]))
    note = options.note or held.get("note", "")
    write(options, {"kind": "volumes", "commands": commands, "note": note, "points": points}, "volumes")


def run_voxel_grid(options: argparse.Namespace, command: str) -> None:
    """``voxel-grid``."""
    machine = describe_machine()
    rows = voxel_grids.measure(
        options.run,
        thinnings=options.thin,
        errors=options.errors,
        neural_errors=options.neural_errors,
        steps=options.steps,
        max_images=options.max_images,
    )
    name = run_data_name(options.run)
    result = {"kind": "voxel-grid", "name": name, "commands": [command], "machine": machine, "rows": rows}
    write(options, result, f"voxel-grid-{name}")


def run_mesh(options: argparse.Namespace, command: str) -> None:
    """``mesh``."""
    names = ("source", "resolution", "triangles", "texture")
    point = mesh_views.measure(
        options.run,
        max_images=options.max_images,
        options={name: getattr(options, name) for name in names},
        keep=options.keep,
    )
    name = run_data_name(options.run)
    write(options, {"kind": "mesh", "name": name, "commands": [command], "points": [point]}, f"mesh-{name}")


def run_prerender(options: argparse.Namespace, command: str) -> None:
    """``prerender``."""
    machine = describe_machine()
    rows = prerendering.measure(options.samples)
    write(options, {"kind": "prerender", "commands": [command], "machine": machine, "rows": rows}, "prerender")


def run_shapes(options: argparse.Namespace, command: str) -> None:
    """``shapes``: parts are added to what is there already, so that they can be measured one by one."""
    machine = describe_machine()
    parts = options.parts or list(shapes.PARTS)
    rows = shapes.measure(parts, options.meshes, options.keep)
    path = options.output or RESULTS / "shapes.json"
    held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": []}
    kept = [row for row in held["rows"] if row["part"] not in parts]
    new = [{**row, "machine": machine, "command": command} for row in rows]
    ordered = sorted([*kept, *new], key=lambda row: shapes.PARTS.index(row["part"]))
    commands = list(dict.fromkeys(row["command"] for row in ordered))
    write(options, {"kind": "shapes", "commands": commands, "machine": machine, "rows": ordered}, "shapes")


def run_rows(options: argparse.Namespace, command: str) -> None:
    """One of `ROWS`."""
    machine = describe_machine()
    rows = ROWS[options.kind].measure(options)
    result = {"kind": options.kind, "commands": [command], "machine": machine, "rows": rows}
    run, data = getattr(options, "run", None), getattr(options, "data", None)
    if run is not None:
        result["name"] = run_data_name(run)
    elif data is not None:
        result["name"] = data_name(data)
    write(options, result, f"{options.kind}-{result['name']}" if "name" in result else options.kind)


def run_startup(options: argparse.Namespace, command: str) -> None:
    """``startup``."""
    machine = describe_machine()
    found = startup.measure(options.recipes)
    write(options, {"kind": "startup", "commands": [command], "machine": machine, "startup": found}, "startup")


def training_options(options: argparse.Namespace) -> dict[str, Any]:
    """What every training takes from the command line."""
    return {
        "recipe": options.recipe,
        "seed": options.seed,
        "overrides": options.overrides,
        "keep_in": options.keep,
        "max_images": options.max_images,
    }


def run_data_name(run: Path) -> str:
    """What the capture of a run is called."""
    record = json.loads((run / "experiment.json").read_text(encoding="utf-8"))
    return data_name(Path(record["data_path"]))


def run_recipe(run: Path) -> str:
    """What a run trained."""
    return str(json.loads((run / "experiment.json").read_text(encoding="utf-8"))["recipe"])


def run_regression(options: argparse.Namespace, command: str) -> None:
    """``regression``: says what got slower; it fails nothing, as a busy machine would fail everything."""
    from voxfield.storage.atomic import write_json

    path = options.output or RESULTS / "regression.json"
    machine, before = describe_machine(), regression.probe()
    print(machine_line(machine))
    rows = regression.measure(seconds=options.seconds)
    # The better of both: what the machine can do, as the best times of the rest are.
    after = regression.probe()
    now = {"probe": {name: max(before[name], after[name]) for name in before}, "rows": rows}
    if options.write:
        result = {"kind": "regression", "commands": [command], "machine": machine, **now}
        write_json(path, {"schema_version": SCHEMA_VERSION, **result})
        print(f"Wrote {path}.")
        return
    then = json.loads(path.read_text(encoding="utf-8"))
    print(f"\nCompared with {machine_line(then['machine'])}")
    print(regression.report(now, then))


def write(options: argparse.Namespace, result: dict[str, Any], stem: str) -> Path:
    """Write a result as JSON and as Markdown, and print the latter."""
    from voxfield.storage.atomic import write_json, write_text

    path = options.output or RESULTS / f"{stem}.json"
    write_json(path, {"schema_version": SCHEMA_VERSION, **result})
    section = pages.result_section(result)
    write_text(path.with_suffix(".md"), section)
    print(f"\n{section}\nWrote {path} and the table beside it.")
    return path


def read_results(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """All results files."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return [result for result in results if result.get("kind") in pages.KINDS]


def write_results_page(options: argparse.Namespace, command: str) -> None:  # noqa: ARG001  (one signature for all)
    """``results-page``: the page, its curve, and the README's table."""
    from voxfield.storage.atomic import write_text

    results = read_results()
    page = options.output or ROOT / "docs" / "results.md"
    write_text(page, pages.results_page(results))
    curve = pages.curve_svg(results)
    if curve is not None:
        write_text(page.parent / pages.CURVE, curve)
    readme = ROOT / "README.md"
    if options.output is None:
        write_text(readme, pages.replace_block(readme.read_text(encoding="utf-8"), pages.readme_results(results)))
    print(f"Wrote {page} from {len(results)} results files.")


if __name__ == "__main__":
    sys.exit(main())
