"""Results as Markdown tables, the documentation's results page, and the curve of quality against minutes."""

from collections.abc import Callable, Sequence
from typing import Any

from measuring import machine_line

KINDS = (
    "train-curve",
    "scales",
    "rates",
    "ranks",
    "memory",
    "nerfstudio",
    "image-cache",
    "volumes",
    "voxel-grid",
    "vdb",
    "mesh",
    "html",
    "viewer",
    "prerender",
    "diffusion",
    "shapes",
    "raynet",
    "steps",
    "startup",
    "kernels",
)
"""Kinds of results, in the order of the page."""

TITLES = {
    "train-curve": "Quality against training time: {name}, {recipe}",
    "scales": "Quality at every scale: {name}",
    "rates": "Speed of training and rendering: {name}",
    "ranks": "Several processes against one: {name}",
    "memory": "Memory of a training: {name}",
    "image-cache": "Pictures beyond memory",
    "nerfstudio": "nerfacto beside nerfstudio's: {name}",
    "volumes": "Compressed volumes",
    "voxel-grid": "A voxel grid as files, and its pictures: {name}",
    "mesh": "Textured meshes beside the photographs: {name}",
    "vdb": "`.vdb` files beside OpenVDB's own",
    "html": "A page that shows a field: {name}",
    "viewer": "The viewer: {name}",
    "diffusion": "What a diffusion makes, beside real volumes: {name}",
    "raynet": "A network of rays: {name}",
    "steps": "Steps on equally many samples: {name}",
    "prerender": "Point clouds to voxels, 128 x 128 x 128",
    "shapes": "Shapes",
    "startup": "Start-up",
    "kernels": "Kernels",
}

PAGE_HEAD = """<!-- Made by: python benchmarks/run.py results-page. Edit benchmarks/pages.py instead. -->
# Results

Every table says how it was made and on which machine; the files behind them are in `benchmarks/results/`. Training
time leaves out compilation and evaluation. Each training of a curve is a run of its own, whose learning rate falls to
its end within the time it was given: a shorter run is not a piece of a longer one. PSNR is of the mean squared error
per image over a white background, averaged over all held-out images; SSIM is Gaussian, window 11, sigma 1.5, inside
the image. "7 at 1/2" are seven held-out photographs at half their width and height, as they were trained on.

On a machine that others use too, look at the best and at the processor time beside the median. What a method computes
is told in [its own page](methods/grid-ngp.md), why it is done so in the [decisions](decisions/index.md).
"""

CURVE = "assets/psnr-minutes.svg"

PICTURES = {
    "workbench-one-minute.png": "grid-ngp, one minute: truth, prediction, error and depth of two held-out views of the "
    "scene in this repository (`make demo`).",
    "fox-ninety-seconds.jpg": "grid-ngp, ninety seconds: held-out views of photographs, and their depths.",
    "nerfacto-fox.jpg": "nerfacto, 15 minutes: held-out views of the same photographs, and their depths.",
    "pynerf-levels.jpg": "PyNeRF: a scene in full, at a quarter of its pixels and from three times as far; below, the "
    "level that each pixel asks for.",
    "plenoxels-stages.jpg": "Plenoxels: what three stages of the grid show, and the voxels that each stores.",
    "diffusion-twenty-minutes.png": "Diffusion, twenty minutes: fifty volumes of 32 x 32 x 32 voxels.",
    "viewer.jpg": "The viewer with a run of the scene in this repository.",
}
"""What methods really give, of `docs/assets`, with a caption."""

README_BEGIN, README_END = "<!-- results: begin -->", "<!-- results: end -->"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int = 1) -> str:
    """A Markdown table; columns after the first ``text_columns`` are aligned right, as numbers are."""
    marks = ["---" if index < text_columns else "---:" for index in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, marks, *rows)) + "\n"


def result_table(result: dict[str, Any]) -> str:
    """The table of one results file."""
    return _TABLES[result["kind"]](result)


def result_section(result: dict[str, Any]) -> str:
    """A results file as a section: title, command, machine, table."""
    title = TITLES[result["kind"]].format(name=result.get("name", ""), recipe=result.get("recipe", ""))
    machines = dict.fromkeys(machine_line(machine) for machine in _machines(result))
    commands = "\n".join(dict.fromkeys(result["commands"]))
    on = "\n".join(f"- {line}" for line in machines)
    note = f"\n{result['note']}\n" if result.get("note") else ""
    return f"## {title}\n\n```text\n{commands}\n```\n\nMeasured on\n\n{on}\n{note}\n{result_table(result)}"


def results_page(results: Sequence[dict[str, Any]]) -> str:
    """``docs/results.md``."""
    parts = [PAGE_HEAD]
    if curve_series(results):
        parts.append(f"![PSNR of the test views against minutes of training]({CURVE})\n")
    parts += [result_section(result) for result in in_order(results)]
    if not results:
        parts.append("Nothing has been measured yet: `python benchmarks/run.py --help` lists what can be.\n")
    parts.append("## Pictures\n")
    parts += [f"![{_plain(caption)}](assets/{name})\n\n*{caption}*\n" for name, caption in PICTURES.items()]
    return "\n".join(parts)


def _plain(caption: str) -> str:
    return caption.replace("`", "").rstrip(".")


def in_order(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results as the page shows them: by kind, then by recipe and name."""
    return sorted(
        results,
        key=lambda result: (KINDS.index(result["kind"]), result.get("recipe", ""), result.get("name", "")),
    )


def readme_results(results: Sequence[dict[str, Any]]) -> str:
    """The README's table: test PSNR by capture and training time, and on which machine each was measured."""
    curves = [result for result in in_order(results) if result["kind"] == "train-curve"]
    rows = [
        [
            f"{result['name']}, {size}" if (size := _size(point)) else str(result["name"]),
            str(result["recipe"]),
            _given(point),
            _number(point["psnr"], ".2f", " dB"),
            _number(point["ssim"], ".3f"),
            _rate(point["rays_per_second"]),
            _rate(point["render_rays_per_second"]),
        ]
        for result in curves
        for point in result["points"]
    ]
    if not rows:
        return ""
    head = ["capture", "recipe", "training", "test PSNR", "SSIM", "rays/s training", "rays/s rendering"]
    measured: dict[str, list[str]] = {}
    for result in curves:
        lines = dict.fromkeys(machine["line"] for machine in _machines(result))
        for line in lines:
            there = [_given(point) for point in result["points"] if point["machine"]["line"] == line]
            some = f" ({', '.join(there)})" if len(lines) > 1 else ""
            measured.setdefault(line, []).append(f"{result['name']} by {result['recipe']}{some}")
    first, *others = measured
    on = "".join(f"; {' and '.join(measured[line])} on {line}" for line in others)
    sizes = "1/2, 1/8: of the photographs' width. " if any(", 1/" in row[0] for row in rows) else ""
    return (
        f"{markdown_table(head, rows, text_columns=2)}\n"
        f"{sizes}On {first}{on}; no GPU. [All results](docs/results.md), with their commands.\n"
    )


def _given(point: dict[str, Any]) -> str:
    """How long a point was trained."""
    return f"{point['minutes']:.0f} min" if point["minutes"] >= 1.5 else f"{60 * point['minutes']:.0f} s"


def _size(point: dict[str, Any]) -> str:
    """How wide the photographs were that a point was measured on, as a share of the capture's; empty: as they are."""
    downscale = point.get("protocol", {}).get("resize", {}).get("downscale", 1)
    return "" if downscale == 1 else f"1/{downscale}"


def replace_block(text: str, content: str) -> str:
    """``text`` with what stands between the README's markers replaced.

    Raises:
        ValueError: the markers are not there.
    """
    head, begin, rest = text.partition(README_BEGIN)
    _, end, tail = rest.partition(README_END)
    if not begin or not end:
        raise ValueError(f"README.md: expected the lines {README_BEGIN} and {README_END}. Put them back.")
    return f"{head}{begin}\n{content}{end}{tail}"


def curve_series(results: Sequence[dict[str, Any]]) -> list[tuple[str, list[tuple[float, float]]]]:
    """Name and (minutes, PSNR) of every curve."""
    curves = []
    for result in in_order(results):
        if result["kind"] == "train-curve":
            points = [(point["minutes"], point["psnr"]) for point in result["points"] if point["psnr"] is not None]
            if points:
                curves.append((f"{result['name']}, {result['recipe']}", points))
    return curves


def curve_svg(results: Sequence[dict[str, Any]]) -> str | None:
    """The curves as a picture that stands alone, or None without any."""
    from voxfield.export.curves import HEIGHT, WIDTH, Series, chart

    curves = curve_series(results)[:_MOST_CURVES]
    if not curves:
        return None
    series = [Series(label=name, points=points, dots=True) for name, points in curves]
    drawn = chart("PSNR of the test views, dB", "minutes of training", series)
    # A page's style sheet does not reach into a picture, so it brings its own, for light and dark.
    opened = f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" height="{2 * HEIGHT}" '
    body = drawn.replace("<svg ", opened, 1)
    return body.replace(">", f">{_STYLE}", 1) + "\n"


_MOST_CURVES = 6
"""As many as have a colour of their own."""

_STYLE = (
    "<style>text{font-family:system-ui,sans-serif;fill:#5c6670}.title{font-size:13px;font-weight:600}"
    ".axis{font-size:11px}.mid{text-anchor:middle}.end{text-anchor:end}.grid{stroke:#8fa3b5;stroke-opacity:.35}"
    "polyline{fill:none;stroke-width:1.6}"
    ".s0{stroke:#0b8f82}.s1{stroke:#c2571a}.s2{stroke:#0b6fb8}.s3{stroke:#8a5cc2}"
    ".s4{stroke:#b8861b}.s5{stroke:#c23d6b}circle.s4{fill:#b8861b}circle.s5{fill:#c23d6b}"
    "circle.s0{fill:#0b8f82}circle.s1{fill:#c2571a}circle.s2{fill:#0b6fb8}circle.s3{fill:#8a5cc2}"
    "@media (prefers-color-scheme:dark){text{fill:#b8c2cc}}</style>"
)


def _volumes(result: dict[str, Any]) -> str:
    rows = []
    for row in result["points"]:
        decode = row["decode"]
        rows.append(
            [
                f"{row['file'].removesuffix('.vdb')} ({row['kind']}, {row['active']:,} active)",
                row["codec"] + (f", {row['network_bytes'] / 1e3:.1f} kB of network" if row["network_bytes"] else ""),
                row["goal"],
                f"{row['half_blosc'] / 1e3:,.1f}",
                f"{row['bytes'] / 1e3:,.1f}",
                f"{row['half_blosc'] / row['bytes']:.1f}x",
                f"{row['rmse']:.2%}",
                f"{row['largest']:.2%}",
                "exact" if row["exact_topology"] else "WRONG",
                f"{row['encode']['wall']:.1f} / {row['encode']['processor']:.1f}",
                f"{row['active'] / decode['wall'] / 1e6:.2f} / {row['active'] / decode['processor'] / 1e6:.2f}",
            ]
        )
    head = ["file", "codec", "bound", "half + blosc, kB", "kB", "smaller", "RMSE of range", "largest error", "topology"]
    head += ["encoding s: wall / processor", "decoding M voxels/s: by wall / by processor time of one core"]
    return markdown_table(head, rows, text_columns=3)


def _voxel_grid(result: dict[str, Any]) -> str:
    rows = [
        [row["form"], f"{row['bytes'] / 1e6:.2f}", f"{row['psnr']:.2f}", f"{row['lost']:.2f}", str(row["num_images"])]
        for row in result["rows"]
    ]
    return markdown_table(["file", "MB", "mean PSNR, dB", "lost, dB", "views"], rows)


def _machines(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [point["machine"] for point in result["points"]] if "points" in result else [result["machine"]]


def _kernels(result: dict[str, Any]) -> str:
    rows = []
    for row in result["rows"]:
        rows.append(
            [
                f"`{row['op']}`",
                row["case"],
                row["variant"],
                f"{row['count'] / row['median'] / 1e6:.3g}",
                f"{row['count'] / row['best'] / 1e6:.3g}",
                f"{1e9 * row['processor'] / row['count']:.3g}",
                row["unit"],
            ]
        )
    head = ["kernel", "case", "variant", "median, M/s", "best, M/s", "processor time, ns each", "of"]
    return markdown_table(head, rows, text_columns=3)


def _train_curve(result: dict[str, Any]) -> str:
    speeds = ["rays/s training", "rays/s rendering"]
    return markdown_table(
        ["given", "held-out views", "minutes", "steps", "PSNR, dB", "SSIM", "LPIPS", *speeds, "peak memory"],
        [
            [
                point["budget"] + "".join(f"<br>`{override}`" for override in point["overrides"]),
                f"{point['num_images']}{_size(point) and f' at {_size(point)}'}",
                f"{point['minutes']:.1f}",
                f"{point['steps']:,}",
                _number(point["psnr"], ".2f"),
                _number(point["ssim"], ".4f"),
                _number(point["lpips"], ".4f"),
                _rate(point["rays_per_second"]),
                _rate(point["render_rays_per_second"]),
                _memory(point["peak_memory_bytes"]),
            ]
            for point in result["points"]
        ],
    )


def _scales(result: dict[str, Any]) -> str:
    scales = [entry["scale"] for entry in result["points"][0]["per_scale"]]
    return markdown_table(
        [
            "recipe",
            *(f"1/{scale}" if scale > 1 else "1" for scale in scales),
            "mean PSNR, dB",
            "SSIM",
            "minutes",
            "steps",
            "rays/s training",
            "rays/s rendering",
        ],
        [
            [
                f"`{point['recipe']}`",
                *(_number(entry["psnr"], ".2f") for entry in point["per_scale"]),
                _number(point["psnr"], ".2f"),
                _number(point["ssim"], ".4f"),
                f"{point['minutes']:.1f}",
                f"{point['steps']:,}",
                _rate(point["rays_per_second"]),
                _rate(point["render_rays_per_second"]),
            ]
            for point in result["points"]
        ],
    )


def _rates(result: dict[str, Any]) -> str:
    (point,) = result["points"]
    return markdown_table(
        ["what", "value"],
        [
            ["training, rays/s, all of a step's work included", _rate(point["rays_per_second"])],
            ["training, rays/s of the middle step", _rate(point["rays_per_second_median"])],
            ["visible samples a ray", _number(point["samples_per_ray"], ".1f")],
            ["rendering test views, rays/s", _rate(point["render_rays_per_second"])],
            ["after training for, minutes", f"{point['minutes']:.1f}"],
        ],
    )


def _ranks(result: dict[str, Any]) -> str:
    return markdown_table(
        ["recipe", "ranks", "rays/s, one with one thread", "rays/s together", "ratio", "received by a rank in a step"],
        [
            [
                row["recipe"],
                str(row["ranks"]),
                _rate(row["one"]),
                _rate(row["together"]),
                f"{row['ratio']:.2f}",
                f"{row['exchanged_bytes'] / 1e6:.1f} MB",
            ]
            for row in result["rows"]
        ],
    )


def _memory_table(result: dict[str, Any]) -> str:
    (point,) = result["points"]
    rows = [
        ["peak memory of the process", _memory(point["peak_memory_bytes"])],
        ["steps", f"{point['steps']:,}"],
    ]
    return markdown_table(["what", "value"], rows)


def _image_cache(result: dict[str, Any]) -> str:
    return markdown_table(
        ["pictures", "decoded", "cache", "rays/s in memory", "rays/s with the cache", "ratio", "peak memory with it"],
        [
            [
                f"{point['pictures']} of {point['size']}",
                _memory(point["decoded_bytes"]),
                _memory(point["cache_bytes"]),
                _rate(point["in_memory"]),
                _rate(point["cached"]),
                f"{point['ratio']:.0%}",
                _memory(point["peak_memory_bytes"]),
            ]
            for point in result["points"]
        ],
    )


def _nerfstudio(result: dict[str, Any]) -> str:
    ours, theirs = result["systems"]["voxfield"], result["systems"]["nerfstudio"]
    rows = [
        [label, _rate(ours[key]), _rate(theirs[key]), f"{ours[key] / theirs[key]:.1f}x"]
        for label, key in (
            ("training, rays/s of the middle step", "training_rays_per_second"),
            ("training, rays/s of the best step", "training_rays_per_second_best"),
            ("rendering, rays/s of the middle turn", "rendering_rays_per_second"),
            ("rendering, rays/s of the best turn", "rendering_rays_per_second_best"),
        )
    ]
    held = [one["peak_memory_bytes"] for one in (ours, theirs)]
    share = "–" if None in held else f"1/{held[1] / held[0]:.1f}"
    rows.append(["peak memory of the process", *map(_memory, held), share])
    rows.append(
        ["steps measured, from step", *(f"{one['steps']}, {result['start_step']}" for one in (ours, theirs)), ""]
    )
    rows.append(["rays a step", *(f"{one['rays']:,}" for one in (ours, theirs)), ""])
    rows.append(["samples a ray", *(", ".join(map(str, one["samples"])) for one in (ours, theirs)), ""])
    rows.append(["torch", ours["torch"], theirs["torch"], ""])
    return markdown_table(["what", f"Voxfield {ours['version']}", f"nerfstudio {theirs['version']}", ""], rows)


def _mesh(result: dict[str, Any]) -> str:
    rows = [
        [
            f"`{point['recipe']}`, {point['options']['source']} at {point['options']['resolution']}",
            f"{point['faces']:,}",
            f"{point['options']['texture']:,}",
            f"{point['bytes'] / 1e6:.1f}",
            f"{point['psnr']:.2f}",
            f"{point['least_psnr']:.2f}",
            str(point["num_images"]),
            f"{point['seconds']['wall']:.0f} / {point['seconds']['processor']:.0f}",
        ]
        for point in result["points"]
    ]
    head = ["mesh", "triangles", "texture", "GLB, MB", "mean PSNR, dB", "least", "views"]
    return markdown_table([*head, "export s: wall / processor"], rows)


def _prerender(result: dict[str, Any]) -> str:
    rows = [
        [row["what"], *(_seconds(row[name]) for name in ("median", "best", "processor", "bar"))]
        for row in result["rows"]
    ]
    head = ["what", "median", "best", "processor time, all threads", "aimed at, 2 cores"]
    return markdown_table(head, rows)


def _shapes(result: dict[str, Any]) -> str:
    rows = [
        [row["what"], *(_measured(row[name], row["unit"]) for name in ("value", "best", "bar"))]
        for row in result["rows"]
    ]
    return markdown_table(["what", "median", "best", "aimed at, 2 cores"], rows)


def _diffusion(result: dict[str, Any]) -> str:
    formats = {"coverage": ".3f", "mmd": ".4f", "one_nn_accuracy": ".3f", "jsd": ".3f", "frechet": ".3f"}
    formats |= {"iou_nearest": ".3f", "occupancy": ".2%", "nearest": ".3f", "copies": "d"}
    rows = [[row["what"], *(_number(row[name], how) for name, how in formats.items())] for row in result["rows"]]
    head = ["volumes", "coverage", "mmd", "1-NN accuracy (best 0.5)", "jsd", "frechet", "iou_nearest", "occupied"]
    return markdown_table([*head, "away from the nearest trained on", "copies"], rows)


def _measured(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return _seconds(value) if unit == "s" else _UNITS[unit](value)


_UNITS: dict[str, Callable[[float], str]] = {
    "rays/s": lambda value: f"{_rate(value)} rays/s",
    "1/s": lambda value: f"{value:.1f} /s",
    "B": lambda value: f"{value / 1e3:,.0f} kB" if value < 1e7 else f"{value / 1e6:,.1f} MB",
    "x": lambda value: f"{value:.2f}x",
    "dB": lambda value: f"{value:.2f} dB",
    "rows": lambda value: f"{value:.0f}",
    "voxels": lambda value: f"{value:.3f} voxels",
    "": lambda value: f"{value:.1%}",
    "number": lambda value: f"{value:.4g}",
}
"""How figures are written, by unit; seconds as everywhere."""


def _startup(result: dict[str, Any]) -> str:
    found = result["startup"]
    recipes = list(found.get("recipes", {}).items())
    of = f" of `{recipes[0][0]}`" if recipes else ""
    rows = [
        ["`import voxfield`", _number(found["import_seconds"], ".3f", " s")],
        ["`voxfield --help`, the whole process", _number(found["help_seconds"], ".2f", " s")],
        [
            f"compiling every kernel{of}, first run ({found['compiled_functions']} functions)",
            _number(found["compile_seconds"], ".1f", " s"),
        ],
        ["finding them compiled, later runs", _number(found["load_seconds"], ".1f", " s")],
        ["functions a second run compiles", str(found["compiled_again"])],
    ]
    for recipe, seconds in recipes[1:]:
        rows.append([f"the same of `{recipe}` (aimed at: 25 s, 2 cores)", _number(seconds, ".1f", " s")])
    return markdown_table(["what", "best"], rows)


_TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "kernels": _kernels,
    "train-curve": _train_curve,
    "scales": _scales,
    "rates": _rates,
    "ranks": _ranks,
    "memory": _memory_table,
    "image-cache": _image_cache,
    "nerfstudio": _nerfstudio,
    "volumes": _volumes,
    "voxel-grid": _voxel_grid,
    "mesh": _mesh,
    "prerender": _prerender,
    "shapes": _shapes,
    **dict.fromkeys(("vdb", "html", "viewer", "raynet", "steps"), _shapes),
    "diffusion": _diffusion,
    "startup": _startup,
}


def _number(value: float | None, how: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{how}}{unit}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{1e3 * value:.3g} ms" if value < 0.995 else f"{value:.3g} s"


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{float(f'{value:.3g}'):,.0f}"


def _memory(value: int | None) -> str:
    return "–" if value is None else f"{value / 2**30:.2f} GiB"
