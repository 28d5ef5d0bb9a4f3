"""The example that leads one grid from end to end runs, each way round, and loses no more than it may."""

import runpy
from pathlib import Path

import pytest

pytest.importorskip("monai")


@pytest.fixture
def example(repository: Path):
    return runpy.run_path(str(repository / "examples" / "one_grid.py"))


@pytest.fixture
def sizes(example, tiny):
    raynet = ("model.features=8", "model.width=16", "model.intervals=8", "model.layers=0", "trainer.tensorboard=false")
    diffusion = (
        "model.channels=[8,8]",
        "model.head_channels=8",
        "model.norm_groups=4",
        "model.batch_size=2",
        "trainer.tensorboard=false",
    )
    plenoxels = ("model.rays_per_batch=300", "model.pruning_rays=4000", "trainer.tensorboard=false")
    return example["Sizes"](
        steps=40,
        resolution=16,
        baked=32,
        bake_steps=20,
        network_steps=2,
        pictures=1,
        side=16,
        settings=(
            ("grid-ngp", tiny),
            ("raynet", raynet),
            ("diffusion", diffusion),
            ("plenoxels", plenoxels),
        ),
    )


def test_shapes(example, sizes, tmp_path):
    table = example["Table"]()
    meshes = example["made_meshes"](tmp_path / "meshes", count=4)
    example["shapes"](tmp_path / "shapes", meshes, sizes, table)
    assert table.value("meshes to voxel dataset", "objects") == 4
    assert table.value("dataset taken apart and put together", "faults") == 0
    assert table.value("voxels against twice as many", "iou") > 0.7
    assert 0 <= table.value("raynet, seen blocks", "hit_f1") <= 1


def test_photos(example, sizes, tiny_capture, tmp_path):
    table = example["Table"]()
    example["photos"](tmp_path / "photos", tiny_capture, sizes, table)
    baked = table.value("baked", "psnr")
    # A volume is the very grid; what is rounded or coarser loses as much as it should.
    assert table.value("OpenVDB", "psnr") == pytest.approx(baked, abs=1e-3)
    assert table.value("level 0", "psnr") == pytest.approx(baked, abs=1e-3)
    assert table.value("level 0", "iou") == 1.0
    assert table.value("OpenVDB, 16 bits, thinned", "psnr") == pytest.approx(baked, abs=0.1)
    assert table.value("neural VDB, unpacked", "psnr") == pytest.approx(baked, abs=1.5)
    assert table.value("mesh, voxels again", "iou") > 0.5
    assert (tmp_path / "photos/blender.py").is_file()


def test_points(example, sizes, tmp_path):
    table = example["Table"]()
    meshes = example["made_meshes"](tmp_path / "meshes", count=6)
    clouds = example["made_points"](tmp_path / "clouds.npy", meshes, copies=4, points=300)
    example["points"](tmp_path / "points", clouds, sizes, table)
    assert table.value("clouds to voxels", "samples") == 24
    assert table.value("samples", "chamfer_to_nearest") >= 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_on_real_data(example, shared_data, tmp_path):
    table, sizes = example["Table"](), example["Sizes"](minutes=1.0)
    example["photos"](tmp_path / "photos", shared_data / "images/nerf_synthetic/lego", sizes, table)
    baked = table.value("baked", "psnr")
    assert baked > 20.0
    assert baked - table.value("OpenVDB", "psnr") < 0.01
    assert baked - table.value("neural VDB, unpacked", "psnr") < 1.0
    assert table.value("level 1", "psnr") > table.value("level 2", "psnr")
    assert table.value("mesh, voxels again", "iou") > 0.7
    example["shapes"](tmp_path / "shapes", shared_data / "meshes", sizes, table)
    assert table.value("dataset taken apart and put together", "faults") == 0
