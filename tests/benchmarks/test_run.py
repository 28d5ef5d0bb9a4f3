"""The benchmarks' own arithmetic and pages. Nothing is timed here, and nothing trained."""

import json
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

MACHINE = {
    "line": "A processor, 2 threads",
    "vectors": ["avx2"],
    "cores": 2,
    "load": 0.1,
    "date": "2026-11-21 12:00 +0000",
    "git": {"commit": "0123456789abcdef", "dirty": False},
}


def point(budget: str, minutes: float, psnr: float | None = 30.0, **changes: object) -> dict:
    return {
        "budget": budget,
        "minutes": minutes,
        "steps": 100,
        "seed": 42,
        "overrides": [],
        "psnr": psnr,
        "ssim": 0.95,
        "lpips": None,
        "num_images": 25,
        "render_rays_per_second": 250_000.0,
        "rays_per_second": 61_234.0,
        "rays_per_second_median": 62_000.0,
        "samples_per_ray": 12.0,
        "peak_memory_bytes": 2**30,
        "machine": MACHINE,
        **changes,
    }


def curve(*points: dict) -> dict:
    about = {"kind": "train-curve", "name": "lego", "recipe": "grid-ngp", "commands": ["python benchmarks/run.py x"]}
    return {**about, "points": list(points)}


def kernels(*variants: str) -> dict:
    rows = [
        {
            "op": "composite",
            "case": "forward",
            "variant": variant,
            "unit": "samples",
            "count": 2_000_000,
            "median": 0.5,
            "best": 0.25,
            "processor": 1.0,
            "calls": 3,
        }
        for variant in variants
    ]
    return {"kind": "kernels", "commands": ["python benchmarks/run.py kernels"], "machine": MACHINE, "rows": rows}


def train_line(step: int, seconds: float, rays: float, rate: float = 1.0) -> dict:
    return {
        "kind": "train",
        "step": step,
        "train_seconds": seconds,
        "num_rays": rays,
        "rays_per_second": rate,
        "samples_per_ray": 10.0,
    }


# ------------------------------------------------------------------------------------------------------------ timing
def test_a_call_is_timed_without_its_preparation(benchmark) -> None:
    measuring = benchmark("measuring")
    now = [0.0]
    durations = iter([9.0, 3.0, 1.0, 2.0, 4.0])

    def call() -> None:
        now[0] += next(durations)

    def before() -> None:
        now[0] += 100.0

    timing = measuring.time_call(
        call, before=before, seconds=10.0, least=3, clock=lambda: now[0], processor_clock=lambda: 2 * now[0]
    )
    # The first call, 9 s, is not counted; 3 + 1 + 2 + 4 reach 10.
    assert (timing.calls, timing.median, timing.best, timing.processor) == (4, 2.5, 1.0, 5.0)


def test_the_vector_flags_of_a_processor_are_found(benchmark) -> None:
    measuring = benchmark("measuring")
    assert measuring.vector_flags("processor\t: 0\nflags\t\t: fpu avx2 fma avx512f\n") == ["avx2", "avx512f"]
    assert measuring.vector_flags("Features\t: fp asimd sve\n") == ["asimd", "sve"]
    assert measuring.vector_flags("") == []


def test_the_machine_line_leaves_out_what_is_not_known(benchmark) -> None:
    measuring = benchmark("measuring")
    assert measuring.machine_line(MACHINE) == (
        "A processor, 2 threads, avx2, 2 cores, load average 0.1, 2026-11-21 12:00 +0000, commit 0123456789"
    )
    bare = {**MACHINE, "load": None, "git": None, "vectors": []}
    assert measuring.machine_line(bare) == (
        "A processor, 2 threads, no vector extensions named, 2 cores, 2026-11-21 12:00 +0000"
    )


def test_peak_memory_is_this_processs_own(benchmark) -> None:
    held = benchmark("measuring").peak_memory_bytes()
    assert held is None or 2**20 < held < 2**40


# ---------------------------------------------------------------------------------------------------------- registry
def test_every_kernel_folder_is_measured(benchmark, repository: Path) -> None:
    folders = {path.parent.name for path in (repository / "src/voxfield/kernels").glob("*/api.py")}
    assert set(benchmark("registry").ops()) == folders


def test_cases_are_told_apart_and_compared_with_torch(benchmark) -> None:
    cases = list(benchmark("registry").cases())
    names = [(case.op, case.case, case.variant) for case in cases]
    assert len(set(names)) == len(names)
    by_case: dict = {}
    for case in cases:
        by_case.setdefault((case.op, case.case), set()).add(case.variant)
    assert all("voxfield" in variants and len(variants) > 1 for variants in by_case.values())
    assert all(case.own_cores == (case.variant == "voxfield") for case in cases)


def test_points_lie_on_rays_inside_the_cube(benchmark) -> None:
    points = benchmark("registry").ray_points(rays=5, samples=8)
    assert points.shape == (40, 3)
    assert points.min() >= 0
    assert points.max() <= 1
    steps = points.reshape(5, 8, 3).diff(dim=1)
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), rtol=0, atol=1e-6)


def test_the_torch_encoding_is_the_same_function(benchmark) -> None:
    from voxfield.kernels.hash_encode import HashGrid, hash_encode

    registry = benchmark("registry")
    grid = HashGrid(num_levels=4, log2_table_size=8, base_resolution=4, max_resolution=64)
    points = registry.ray_points(rays=5, samples=7)
    table = torch.rand(grid.num_entries, grid.features, generator=torch.Generator().manual_seed(0))
    expected = hash_encode(points, table, grid, implementation="reference")
    torch.testing.assert_close(registry.hash_encode_index_select(points, table, grid), expected)


def test_tests_come_before_numbers(benchmark, monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    rates = benchmark("kernel_rates")
    ran: list[list[str]] = []

    def fail(command: list[str], **_: object) -> subprocess.CompletedProcess:
        ran.append(command)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(rates.subprocess, "run", fail)
    with pytest.raises(rates.TestsFailedError, match="nothing was measured"):
        rates.run_tests(["composite"])
    assert str(repository / "tests/kernels/test_composite.py") in ran[0]
    with pytest.raises(rates.TestsFailedError, match=r"test_nothing\.py"):
        rates.run_tests(["nothing"])


# --------------------------------------------------------------------------------------------------------- trainings
def test_the_steady_state_counts_every_second_of_the_second_half(benchmark) -> None:
    trainings = benchmark("trainings")
    lines = [
        train_line(25, 10.0, 1e6),
        train_line(50, 20.0, 1000.0, rate=500.0),
        train_line(75, 30.0, 3000.0, rate=700.0),
        train_line(100, 40.0, 3000.0, rate=900.0),
    ]
    found = trainings.steady_state(lines)
    # 25 steps of 2000 rays on average, 25 of 3000, in 20 seconds.
    assert found["rays_per_second"] == pytest.approx(25 * 5000 / 20)
    assert found["rays_per_second_median"] == 700.0
    assert found["samples_per_ray"] == 10.0


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_short_log_has_no_steady_state(benchmark, count: int) -> None:
    lines = [train_line(25 * (i + 1), float(i + 1), 100.0) for i in range(count)]
    assert set(benchmark("trainings").steady_state(lines).values()) == {None}


def test_a_run_becomes_a_point_without_folders_of_the_machine(benchmark) -> None:
    log = [
        {"kind": "start", "compile_seconds": 3.0},
        *[train_line(25 * i, 30.0 * i, 1000.0) for i in range(1, 5)],
        {"kind": "eval", "step": 100, "train_seconds": 120.0, "split": "val", "psnr": 29.0},
        {"kind": "end", "reason": "finished", "step": 110, "train_seconds": 132.0},
    ]
    metrics = {
        "psnr": 31.5,
        "ssim": 0.97,
        "lpips": None,
        "num_images": 25,
        "num_rays_per_sec": 3e5,
        "protocol": {"background": "white", "source": {"path": "/somewhere"}, "images": ["a"]},
    }
    found = benchmark("trainings").summarise(log, metrics, budget="2 min", seed=1, overrides=["a.b=1"])
    assert (found["minutes"], found["steps"], found["psnr"], found["compile_seconds"]) == (2.2, 110, 31.5, 3.0)
    assert found["while_training"] == [[2.0, 29.0]]
    assert found["protocol"] == {"background": "white"}


def test_a_new_point_replaces_the_old_one_of_its_budget(benchmark) -> None:
    merged = benchmark("trainings").merge_points(
        [point("5 min", 5.0, 30.0), point("full", 60.0, 35.0)], [point("1 min", 1.0, 27.0), point("5 min", 5.1, 31.0)]
    )
    assert [(one["budget"], one["psnr"]) for one in merged] == [("1 min", 27.0), ("5 min", 31.0), ("full", 35.0)]


def test_points_of_several_recipes_stand_side_by_side(benchmark) -> None:
    merge = benchmark("trainings").merge_points
    pyramid, single = ({**point("20 min", 20.0), "recipe": recipe} for recipe in ("pynerf", "grid-ngp"))
    assert merge([pyramid], [single]) == [pyramid, single]
    assert merge([pyramid, single], [{**single, "psnr": 1.0}]) == [pyramid, {**single, "psnr": 1.0}]


def test_a_capture_is_called_like_its_folder(benchmark, tmp_path: Path) -> None:
    name = benchmark("trainings").data_name
    assert name(tmp_path / "lego") == name(tmp_path / "lego" / "transforms.json") == "lego"


# ------------------------------------------------------------------------------------------------------ command line
def test_budgets_are_minutes_or_the_full_recipe(benchmark) -> None:
    parse = benchmark("run").parse_budgets
    assert parse("1, 5,full") == [1.0, 5.0, None]
    for bad in ("0", "-1", "soon", "", "nan"):
        with pytest.raises(ArgumentTypeError, match="minutes above 0 or 'full'"):
            parse(bad)


def test_the_recorded_command_names_no_folder_of_the_machine(benchmark, tmp_path: Path) -> None:
    shown = benchmark("run").shown_command(["rates", "--data", str(tmp_path / "lego"), "--set", "a=b c"])
    assert shown == "python benchmarks/run.py rates --data lego --set 'a=b c'"


def test_unknown_kernels_are_refused_by_name(benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        benchmark("run").main(["kernels", "hash_encod"])
    assert "hash_encode" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["train-curve"], ["scales"], ["rates"], ["memory"]])
def test_what_is_missing_is_said(benchmark, words: list[str]) -> None:
    with pytest.raises(SystemExit, match="--data"):
        benchmark("run").main(words)


def test_results_are_written_as_json_and_markdown(
    benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = benchmark("run")
    trained: list[dict] = []

    def train(data: Path, **options: object) -> dict:
        trained.append({"data": data, **options})
        return point(f"{options['minutes']:g} min", options["minutes"])

    monkeypatch.setattr(run.trainings, "train_and_measure", train)
    output = tmp_path / "curve.json"
    for minutes in ("1", "5"):
        words = ["train-curve", "--data", str(tmp_path / "lego"), "--minutes", minutes, "--output", str(output)]
        assert run.main(words) == 0
    written = json.loads(output.read_text(encoding="utf-8"))
    assert (written["kind"], written["name"], written["schema_version"]) == ("train-curve", "lego", 1)
    assert written["recipe"] == "grid-ngp"
    assert [one["budget"] for one in written["points"]] == ["1 min", "5 min"]
    assert len(written["commands"]) == 2
    assert "| 5 min |" in output.with_suffix(".md").read_text(encoding="utf-8")
    assert "A processor" in capsys.readouterr().out
    assert [one["recipe"] for one in trained] == ["grid-ngp"] * 2


def test_compiled_files_are_counted_wherever_they_lie(benchmark, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a/one.nbc", "two.nbc", "a/index.nbi"):
        (tmp_path / name).touch()
    assert len(benchmark("startup").compiled_files(tmp_path)) == 2


# ------------------------------------------------------------------------------------------------------------- pages
def test_tables_are_whole(benchmark) -> None:
    pages = benchmark("pages")
    startup = {
        "kind": "startup",
        "commands": ["x"],
        "machine": MACHINE,
        "startup": {
            "import_seconds": 0.01,
            "help_seconds": 0.3,
            "compile_seconds": 20.0,
            "load_seconds": 1.0,
            "compiled_functions": 30,
            "compiled_again": 0,
            "recipes": {"grid-ngp": 20.0, "nerfacto": 23.0},
        },
    }
    beyond = {
        "size": "8k",
        "pictures": 10,
        "decoded_bytes": 2**30,
        "cache_bytes": 2**27,
        "in_memory": 50_000.0,
        "cached": 45_000.0,
        "ratio": 0.9,
        "peak_memory_bytes": 2**30,
        "machine": MACHINE,
    }
    ranked = {"recipe": "grid-ngp", "ranks": 2, "one": 9e3, "together": 16e3, "ratio": 1.8, "exchanged_bytes": 2e7}
    rendered = {"what": "a cloud", "median": 0.03, "best": 0.02, "processor": 0.05, "bar": 0.03}
    grid = {
        "form": "quantised, error 1.0% of the range",
        "bytes": 4_930_000,
        "psnr": 29.32,
        "lost": 0.05,
        "num_images": 4,
    }
    volume = {
        "file": "smoke.vdb",
        "kind": "fog volume",
        "active": 1_000_000,
        "half_blosc": 2_000_000,
        "codec": "neural",
        "network_bytes": 5_000,
        "goal": "RMSE 0.5%",
        "bytes": 100_000,
        "rmse": 0.004,
        "largest": 0.01,
        "exact_topology": True,
        "encode": {"wall": 9.0, "processor": 10.0},
        "decode": {"wall": 0.5, "processor": 0.8},
        "machine": MACHINE,
    }
    mesh = {
        "recipe": "grid-ngp",
        "options": {"source": "density", "resolution": 256, "triangles": 50_000, "texture": 2048},
        "faces": 50_000,
        "bytes": 9_000_000,
        "psnr": 27.0,
        "least_psnr": 25.0,
        "num_images": 25,
        "seconds": {"wall": 60.0, "processor": 90.0},
        "machine": MACHINE,
    }
    single = {"name": "lego", "commands": ["x"], "points": [point("2 min", 2.0, None)]}
    per_scale = [{"scale": 1, "psnr": 30.0}, {"scale": 8, "psnr": 34.5}]
    scaled = {**point("20 min", 20.0), "recipe": "pynerf", "per_scale": per_scale}
    units = {"s": 0.01, "rays/s": 12.5e6, "B": 9e5, "x": 1.5, "": 0.63}
    more = {"1/s": 15.4, "dB": 28.15, "rows": 80.0, "voxels": 0.31, "number": 12.0}
    made = {"coverage": 0.365, "mmd": 0.0035, "one_nn_accuracy": 0.667, "jsd": 0.018, "frechet": 0.024}
    made = [{"what": "generated", **made, "iou_nearest": 0.7, "occupancy": 0.1, "nearest": 0.2, "copies": 3}]
    made += [{**dict.fromkeys(made[0]), "what": "the real ones"}]
    shapes = [{"what": unit, "value": value, "best": None, "unit": unit, "bar": value} for unit, value in units.items()]
    others = [{"what": unit, "value": value, "best": None, "unit": unit, "bar": None} for unit, value in more.items()]
    results = [
        kernels("voxfield", "torch"),
        curve(point("1 min", 1.0), point("full", 60.0, overrides=["a.b=1"], peak_memory_bytes=None)),
        {**single, "kind": "scales", "points": [scaled]},
        {"kind": "rates", **single},
        {"kind": "ranks", "name": "lego", "commands": ["x"], "machine": MACHINE, "rows": [ranked]},
        {"kind": "memory", **single},
        {"kind": "image-cache", "commands": ["x"], "points": [beyond]},
        {"kind": "prerender", "commands": ["x"], "machine": MACHINE, "rows": [rendered]},
        {"kind": "shapes", "commands": ["x"], "machine": MACHINE, "rows": shapes},
        {"kind": "volumes", "commands": ["x"], "note": "Shared with others.", "points": [volume]},
        {"kind": "voxel-grid", "name": "lego", "commands": ["x"], "machine": MACHINE, "rows": [grid]},
        {"kind": "mesh", "name": "lego", "commands": ["x"], "points": [mesh]},
        *(
            {"kind": kind, "name": "lego", "commands": ["x"], "machine": MACHINE, "rows": shapes + others}
            for kind in ("vdb", "html", "viewer", "raynet", "steps")
        ),
        {"kind": "diffusion", "name": "blocks", "commands": ["x"], "machine": MACHINE, "rows": made},
        startup,
    ]
    # The table beside nerfstudio has a test of its own.
    assert {result["kind"] for result in results} == set(pages.KINDS) - {"nerfstudio"}
    for result in results:
        lines = pages.result_table(result).splitlines()
        assert len({line.count("|") for line in lines}) == 1
        assert len(lines) > 2
    assert "| 4 | 8 | 500 | samples |" in pages.result_table(results[0])
    assert "| `pynerf` | 30.00 | 34.50 |" in pages.result_table(results[2])
    page = pages.results_page(results)
    assert page.index("Quality against") < page.index("Start-up") < page.index("Kernels")
    assert "61,200" in page
    assert "20.0x | 0.40% | 1.00% | exact |" in page
    assert "| quantised, error 1.0% of the range | 4.93 | 29.32 | 0.05 | 4 |" in page
    assert "Shared with others." in page
    assert "| compiling every kernel of `grid-ngp`, first run (30 functions) | 20.0 s |" in page
    assert "| 1/s | 15.4 /s | – | – |" in page
    assert "| generated | 0.365 | 0.0035 | 0.667 | 0.018 | 0.024 | 0.700 | 10.00% | 0.200 | 3 |" in page
    assert "| the same of `nerfacto` (aimed at: 25 s, 2 cores) | 23.0 s |" in page
    assert pages.CURVE in page


def test_volumes_are_measured_to_the_goal(benchmark, tmp_path: Path) -> None:
    import numpy as np

    from voxfield.storage.vdb import VdbGrid, write_vdb
    from voxfield.voxels.sparse import SparseVolume

    codecs = benchmark("volume_codecs")
    dense = np.random.default_rng(0).random((16, 16, 16)).astype(np.float32)
    write_vdb(tmp_path / "noise.vdb", [VdbGrid(name="x", volume=SparseVolume.from_dense(dense))])
    (tmp_path / "other.vdb").write_bytes(b"nothing")
    assert [file.name for file in codecs.sample_files(tmp_path, [])] == ["noise.vdb"]
    rows = codecs.measure(codecs.sample_files(tmp_path, []), errors=[0.05], steps=2, codecs=["quantised", "neural"])
    assert [(row["codec"], row["goal"]) for row in rows] == [
        ("quantised", "RMSE 0.5%"),
        ("quantised", "max 5%"),
        ("neural", "RMSE 0.5%"),
        ("neural", "max 5%"),
    ]
    assert all(row["exact_topology"] for row in rows)
    assert max(row["rmse"] for row in rows if row["goal"] == "RMSE 0.5%") <= 0.005
    assert max(row["largest"] for row in rows) <= 0.05


def test_a_mesh_is_looked_at_by_texels(benchmark, tmp_path: Path) -> None:
    pytest.importorskip("embreex")
    import numpy as np

    from voxfield.data.synthetic import posed_images
    from voxfield.storage.surface_files import ColouredSurface, Texture, write_surface

    # A wall across the cameras' sight, red on one half and blue on the other.
    places = np.array([[0, -9, -9], [0, 9, -9], [0, 9, 9], [0, -9, 9]], np.float32)
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[:, :2, 0], picture[:, 2:, 2] = 255, 255
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    wall = ColouredSurface(
        vertices=places,
        normals=np.zeros((4, 3), np.float32),
        colours=np.zeros((4, 3), np.float32),
        faces=np.array([[0, 1, 2], [0, 2, 3]]),
        texture=Texture(coordinates=corners, picture=picture),
    )
    write_surface(tmp_path / "wall.glb", wall)
    cameras = posed_images(count=4, resolution=8).cameras
    seen = benchmark("mesh_views").TexturedMesh.read(tmp_path / "wall.glb").look(cameras, 0)
    rays = cameras.image_rays(0)
    t = -rays.origins[:, 0] / rays.directions[:, 0]
    y = (rays.origins[:, 1] + t * rays.directions[:, 1]).view(8, 8)
    sure = (t.view(8, 8) > 0) & (y.abs() > 3) & (y.abs() < 8)
    sure &= (rays.origins[:, 2] + t * rays.directions[:, 2]).view(8, 8).abs() < 8
    expected = torch.where(y[..., None] < 0, torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 0, 1]))
    torch.testing.assert_close(seen[sure], expected[sure], atol=1e-4, rtol=0)
    assert torch.equal(benchmark("mesh_views").over_white(torch.zeros(1, 1, 4, dtype=torch.uint8)), torch.ones(1, 1, 3))


def test_turns_are_timed_block_by_block(benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    large = benchmark("large_captures")
    now = [0.0]

    class Sampler:
        def __init__(self, seconds: float) -> None:
            self.seconds, self.steps = seconds, []

        def sample(self, num_rays: int, step: int) -> None:
            now[0] += self.seconds
            self.steps.append(step)

    monkeypatch.setattr(large.time, "perf_counter", lambda: now[0])
    whole, cached = Sampler(1.0), Sampler(2.0)
    batches = large.ByTurns(whole, cached, before_block=lambda: None)
    for step in range(4 * large.BLOCK_STEPS + 1):
        batches.sample(100, step)
    assert whole.steps == list(range(2 * large.BLOCK_STEPS + 1))
    assert cached.steps == list(range(2 * large.BLOCK_STEPS))
    assert batches.rates() == [[100.0, 100.0], [50.0, 50.0]]


def test_a_large_capture_is_made_of_jpeg_files(benchmark, tmp_path: Path) -> None:
    from voxfield.data.capture import CaptureOptions
    from voxfield.data.capture_reading import read_capture

    large = benchmark("large_captures")
    large.write_capture(tmp_path, large.Size(64, 96, 10), seed=1)
    capture = read_capture(tmp_path, options=CaptureOptions(downscale=1))
    assert len(capture) == 10
    assert capture.images.read(3).shape == (96, 64, 3)
    assert all(name.endswith(".jpg") for name in capture.names)


def test_a_page_without_results_says_so(benchmark) -> None:
    pages = benchmark("pages")
    assert "Nothing has been measured yet" in pages.results_page([])
    assert pages.curve_svg([]) is None
    assert pages.readme_results([kernels("voxfield")]) == ""


def test_the_curve_is_a_picture_of_its_own(benchmark) -> None:
    drawn = benchmark("pages").curve_svg([curve(point("1 min", 1.0, 28.0), point("5 min", 5.0, 31.0)), kernels("a")])
    root = ElementTree.fromstring(drawn)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "<style>" in drawn
    assert len(root.findall(".//{http://www.w3.org/2000/svg}circle")) == 2


def test_the_readmes_table_lies_between_its_markers(benchmark) -> None:
    pages = benchmark("pages")
    text = f"before\n{pages.README_BEGIN}\nold\n{pages.README_END}\nafter\n"
    filled = pages.replace_block(text, pages.readme_results([curve(point("1 min", 1.0))]))
    assert "old" not in filled
    assert filled.startswith("before\n")
    assert filled.endswith(f"{pages.README_END}\nafter\n")
    assert "| lego | grid-ngp | 60 s | 30.00 dB | 0.950 | 61,200 | 250,000 |" in filled
    assert f"\nOn {MACHINE['line']}; no GPU." in filled
    assert pages.replace_block(filled, "") == pages.replace_block(text, "")
    with pytest.raises(ValueError, match=r"README\.md"):
        pages.replace_block("no markers", "")


def test_a_measurement_names_its_own_machine_and_size(benchmark) -> None:
    pages = benchmark("pages")
    small = {"protocol": {"resize": {"downscale": 2}}, "num_images": 7, "machine": {**MACHINE, "line": "Z80, 1 thread"}}
    elsewhere = {**curve(point("2 min", 2.0, **small)), "name": "fox", "recipe": "nerfacto"}
    table = pages.readme_results([curve(point("1 min", 1.0)), elsewhere])
    assert "| fox, 1/2 | nerfacto | 2 min |" in table
    assert f"On {MACHINE['line']}; fox by nerfacto on Z80, 1 thread; no GPU." in table
    mixed = curve(point("1 min", 1.0), point("2 min", 2.0, **small))
    assert f"On {MACHINE['line']}; lego by grid-ngp (2 min) on Z80, 1 thread; no GPU." in pages.readme_results([mixed])
    assert "| 2 min | 7 at 1/2 | 2.0 | 100 | 30.00 |" in pages.result_table(elsewhere)
    assert "| 1 min | 25 | 1.0 | 100 | 30.00 |" in pages.result_table(curve(point("1 min", 1.0)))


# ---------------------------------------------------------------------------------------------------- the repository
def test_pages_of_the_repository_show_the_committed_results(benchmark, repository: Path) -> None:
    run, pages = benchmark("run"), benchmark("pages")
    results = run.read_results()
    again = "is out of date: python benchmarks/run.py results-page"
    page = (repository / "docs" / "results.md").read_text(encoding="utf-8")
    assert page == pages.results_page(results), f"docs/results.md {again}"
    readme = (repository / "README.md").read_text(encoding="utf-8")
    assert readme == pages.replace_block(readme, pages.readme_results(results)), f"README.md {again}"
    svg = pages.curve_svg(results)
    if svg is not None:
        assert (repository / "docs" / pages.CURVE).read_text(encoding="utf-8") == svg, f"The curve {again}"


# ---------------------------------------------------------------------------------------------------- beside nerfstudio
DRIVER = """
from alternation import serve
def prepare(order):
    print("noise that is no answer")
    if order.get("fail"):
        raise RuntimeError("no such capture")
    done = []
    def work(count):
        done.append(count)
        return [order["name"], len(done), count]
    return {"work": work}
serve(prepare)
"""


@pytest.fixture
def drivers(benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path):
    """Starts drivers that count their turns."""
    alternation = benchmark("alternation")
    (tmp_path / "drive_test.py").write_text(DRIVER, encoding="utf-8")
    monkeypatch.setattr(alternation, "HERE", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(repository / "benchmarks"))
    started = []

    def start(**order: object):
        log = tmp_path / f"{len(started)}.log"
        started.append(alternation.Driver(sys.executable, "drive_test.py", order, log))
        return started[-1]

    yield alternation, start
    for driver in started:
        driver.close()


def test_two_systems_work_in_turns(drivers) -> None:
    alternation, start = drivers
    answers = alternation.in_turns([start(name="a"), start(name="b")], "work", rounds=2, count=7)
    assert answers == [[["a", 1, 7], ["a", 2, 7]], [["b", 1, 7], ["b", 2, 7]]]


def test_a_driver_that_fails_says_why(drivers) -> None:
    alternation, start = drivers
    with pytest.raises(alternation.DriverError, match="no such capture"):
        start(name="a", fail=True).ask("work", 1)


def test_without_an_environment_nerfstudio_is_left_out(benchmark, tmp_path: Path, capsys) -> None:
    run = benchmark("run")
    assert run.main(["nerfstudio", "--data", "fox", "--output", str(tmp_path / "x.json")]) == 0
    assert "Name an environment that has it with --nerfstudio-python" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_the_table_beside_nerfstudio_has_the_ratios(benchmark) -> None:
    side_by_side, pages = benchmark("side_by_side"), benchmark("pages")
    about = {"version": "1", "torch": "2", "rays": 4096, "samples": [256, 96, 48]}
    ours = side_by_side.summarise(about, [[1.0, 2.0], [4.0]], [2.0, 1.0, 4.0], 1000, 2**30)
    assert (ours["steps"], ours["training_rays_per_second"], ours["training_rays_per_second_best"]) == (3, 2048, 4096)
    assert (ours["rendering_rays_per_second"], ours["rendering_rays_per_second_best"]) == (500, 1000)
    theirs = side_by_side.summarise(about, [[20.0]], [10.0], 1000, 4 * 2**30)
    result = {
        "kind": "nerfstudio",
        "name": "fox",
        "commands": ["python benchmarks/run.py nerfstudio"],
        "machine": MACHINE,
        "start_step": 0,
        "systems": {"voxfield": ours, "nerfstudio": theirs},
    }
    page = pages.results_page([result])
    assert "| training, rays/s of the middle step | 2,050 | 205 | 10.0x |" in page
    assert "| peak memory of the process | 1.00 GiB | 4.00 GiB | 1/4.0 |" in page
    assert "| samples a ray | 256, 96, 48 | 256, 96, 48 |" in page
