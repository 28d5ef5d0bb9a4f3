"""Fixtures every test may use, and what decides whether a marked test can run here."""

import importlib.util
import os
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests, saying why, where torch finds no GPU that Triton serves."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not (torch.cuda.is_available() or torch.xpu.is_available()):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="torch finds no GPU here"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real captures outside the repository, for slow tests; the test is skipped where they are absent.

    ``VOXFIELD_TEST_DATA`` names the folder; ``shared/data`` beside the repository is taken otherwise.
    """
    named = os.environ.get("VOXFIELD_TEST_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs real captures: set VOXFIELD_TEST_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def captures() -> ModuleType:
    """``tests/capture_writers.py``: small captures in every layout, written as the real programs write them."""
    return _beside("capture_writers")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[tuple[str, Any]]:
    """(address, backend) of an S3 server; started once, as that takes seconds."""
    with warnings.catch_warnings():
        # Of the server's own dependencies.
        warnings.simplefilter("ignore")
        moto_server = pytest.importorskip("moto.server")
        from moto.s3.models import s3_backends

        server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}", s3_backends["123456789012"]["aws"]
    server.stop()


@pytest.fixture
def bucket(s3_server: tuple[str, Any], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bucket, whose server S3 clients find, and credentials that can write to it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server[0])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return _beside("servers").Bucket.made(s3_server, f"bucket-{abs(hash(request.node.nodeid)):x}"[:40])


@pytest.fixture
def web() -> Iterator[Any]:
    """A web server of files that lists its folders."""
    with _beside("servers").Web() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Local copies go to a folder of each test's own, and no credentials but a test's own are found."""
    monkeypatch.setenv("VOXFIELD_CACHE", str(tmp_path_factory.getbasetemp() / f"cache-{uuid.uuid4().hex[:12]}"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


def _beside(name: str) -> ModuleType:
    """A module that lies beside this file."""
    return _module(name, Path(__file__).with_name(f"{name}.py"))


def _module(name: str, file: Path) -> ModuleType:
    """The module in a file, known under that name."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


TINY = (
    "model.field.hidden=32",
    "model.field.colour_layers=1",
    "model.field.num_levels=6",
    "model.field.base_resolution=8",
    "model.field.max_resolution=64",
    "model.field.log2_table_size=12",
    "model.steps_across=128",
    "model.occupancy.resolution=32",
    "model.occupancy.update_every=4",
    "model.occupancy.cells_per_update=0.25",
    "model.occupancy.warm_up_updates=8",
    "model.samples_per_batch=4096",
    "model.final_samples_per_batch=4096",
    "trainer.tensorboard=false",
    "trainer.log_every=5",
)


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Settings that make ``grid-ngp`` small enough for a test: about 10 ms a step."""
    return TINY


@pytest.fixture(scope="session")
def tiny_capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A NeRF-synthetic capture of the analytic example scene. Tests that alter files copy it first."""
    from voxfield.data.synthetic import posed_images, write_blender

    folder = tmp_path_factory.mktemp("captures") / "spheres"
    splits = [
        posed_images(count=count, resolution=32, split=split)
        for split, count in (("train", 10), ("val", 2), ("test", 2))
    ]
    write_blender(folder, splits)
    return folder


@pytest.fixture(scope="session")
def shape_meshes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four small shapes: lopsided wedges, so that no symmetry hides a mistake."""
    folder = tmp_path_factory.mktemp("meshes")
    faces = "f 1 3 2\nf 1 2 4\nf 2 3 4\nf 1 4 3\n"
    for number, (x, y, z) in enumerate([(5, 4, 3), (3, 5, 4), (4, 3, 5), (5, 5, 2)]):
        corners = f"v 0 0 0\nv {x} 0 1\nv 0 {y} 0\nv 0.5 0 {z}\n"
        (folder / f"wedge{number}.obj").write_text(corners + faces)
    return folder


@pytest.fixture(scope="session")
def shape_dataset(shape_meshes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those shapes as a voxel dataset of 32 to 8 voxels: two objects for training, one each to validate and test."""
    import voxfield

    output = tmp_path_factory.mktemp("shapes") / "dataset"
    voxfield.build_shapes(shape_meshes, output, resolution=32, min_resolution=8, workers=1, quiet=True)
    voxfield.split_shapes(output, train=0.5, val=0.25, test=0.25)
    return output


@pytest.fixture(scope="session")
def shape_rays(shape_dataset: Path) -> dict[str, Path]:
    """The same rays through its blocks, by layout."""
    import voxfield

    folders: dict[str, Path] = {}
    for layout in ("files", "packed"):
        folders[layout] = shape_dataset.parent / f"rays-{layout}"
        voxfield.trace_shapes(
            shape_dataset,
            folders[layout],
            sphere_divisions=2,
            samples_per_view=90,
            layout=layout,  # type: ignore[arg-type]
            workers=1,
            quiet=True,
        )
    return folders


@pytest.fixture(scope="session")
def grid_of() -> Callable[..., Any]:
    """Turns solids of `voxfield.data.synthetic` into a voxel grid of (-1, 1)^3."""
    import torch

    from voxfield.voxels.voxel_grid import VoxelGrid

    def made(scene: Any, side: int = 40) -> VoxelGrid:
        along = (torch.arange(side) + 0.5) / side * 2 - 1
        z, y, x = torch.meshgrid(along, along, along, indexing="ij")
        points = torch.stack([x, y, z], dim=-1).reshape(-1, 3)
        density = scene.density(points).view(side, side, side)
        sh = ((scene.colour(points) - 0.5) / 0.28209479).view(side, side, side, 3, 1)
        return VoxelGrid.from_dense(density, sh, (-1, -1, -1, 1, 1, 1), stored=density > 0)

    return made


@pytest.fixture(scope="session")
def named() -> Callable[[str, str], str]:
    """What an environment variable says; the test is skipped, saying what it would be for, where it says nothing."""

    def said(variable: str, purpose: str) -> str:
        value = os.environ.get(variable)
        if value is None:
            pytest.skip(purpose.format(variable))
        return value

    return said


@pytest.fixture(scope="session")
def blender(named: Callable[[str, str], str]) -> str:
    """A Python that has Blender's ``bpy``."""
    return named("VOXFIELD_BLENDER_PYTHON", "needs Blender: set {} to a Python that has bpy")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window, as benchmarks start it; the test is skipped where it is absent."""
    pytest.importorskip("selenium.webdriver", reason="needs selenium")
    chromium = _module("chromium_of_benchmarks", ROOT / "benchmarks" / "chromium.py")
    if chromium.installed() is None:
        pytest.skip(chromium.MISSING)
    with chromium.started("--window-size=900,600") as window:
        yield window
