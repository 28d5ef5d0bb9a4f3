"""The document's snippets, as docs/compat/plenoxels.md has them, on small data; and what they do not show."""

import re
import tracemalloc
from dataclasses import replace

import pytest
import torch

import voxfield
from voxfield.compat import plenoxels
from voxfield.compat.plenoxels import (
    NeuralVDBConfig,
    NeuralVDBManager,
    NeuralVDBPlenoxelTrainer,
    NeuralVDBTrainerConfig,
    PlenoxelConfig,
    PlenoxelDatasetConfig,
    VoxelGrid,
    load_plenoxel_from_neuralvdb,
    save_plenoxel_as_neuralvdb,
)
from voxfield.errors import InputError, MissingFileError, UnavailableError, VolumeFormatError
from voxfield.storage.vdb import VdbFile
from voxfield.storage.voxel_vdb import read_voxel_vdb

SMALL = "PlenoxelConfig(grid_resolution=(16, 16, 16), coarse_resolutions=((8, 8, 8),), coarse_epochs=(6,), sh_degree=1)"
SHORTER = {
    "(128, 128, 128)": "(16, 16, 16)",
    "max_epochs=10000": "max_epochs=12, pruning_interval=4, log_interval=2",
    "neuralvdb_save_interval=5000": "neuralvdb_save_interval=5",
    "lod_save_interval=20000": "lod_save_interval=10",
    "storage_stats_interval=1000": "storage_stats_interval=6",
    "checkpoint_epoch_5000": "checkpoint_epoch_5",
    "PlenoxelConfig()": SMALL,
}


@pytest.fixture
def grid():
    generator = torch.Generator().manual_seed(0)
    stored = torch.rand(12, 14, 16, generator=generator) < 0.5
    made = VoxelGrid((16, 14, 12), (-1, -1, -1, 1, 1, 1), 1, stored=stored)
    with torch.no_grad():
        made.density.uniform_(-1, 20, generator=generator)
        made.density[:50] = 5e-5
        made.sh.normal_(generator=generator)
    return made


def trainer_of(tiny_capture, tmp_path, model=None, data=None, **settings):
    config = NeuralVDBTrainerConfig(
        **{"max_epochs": 12, "pruning_interval": 4, "output_dir": tmp_path, "device": "cpu", **settings}
    )
    dataset = PlenoxelDatasetConfig(tiny_capture, num_rays_train=128, **(data or {}))
    return NeuralVDBPlenoxelTrainer(model or eval(SMALL), config, dataset)


def test_the_snippets_run(repository, tiny_capture, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (repository / "docs/compat/plenoxels.md").read_text(encoding="utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(snippets) == 10
    names = {}
    for number, snippet in enumerate(snippets):
        text = snippet.replace("/path/to/data", str(tiny_capture))
        for long, short in SHORTER.items():
            text = text.replace(long, short)
        exec(compile(text, f"snippet {number}", "exec"), names)
    said = capsys.readouterr().out
    assert "Resolution: (16, 16, 16)" in said
    assert "Active voxels: 4,096" in said
    assert names["success"] is True
    assert [path.name for path in names["lod_files"]] == ["lod_0.vdb", "lod_1.vdb", "lod_2.vdb", "lod_3.vdb"]
    assert read_voxel_vdb("lod_output/lod_2.vdb").grid.resolution == (4, 4, 4)
    assert read_voxel_vdb("chunk_0.vdb").grid.num_voxels == 4096
    run = tmp_path / "outputs/plenoxel_experiment"
    for epoch in (5, 10):
        assert (run / f"checkpoint_epoch_{epoch}.vdb").is_file()
        assert (run / f"checkpoint_epoch_{epoch}_optimized.vdb").is_file()
    assert (run / "lod_epoch_10/lod_0.vdb").is_file()
    info = names["export_info"]
    assert set(info) == {"main_file", "file_size_mb", "num_grids", "lod_files", "total_active_voxels"}
    assert (info["num_grids"], len(info["lod_files"])) == (5, 3)
    trainer = names["trainer"]
    assert trainer.epoch == 12
    assert [one["epoch"] for one in trainer.storage_stats] == [6, 12]


def test_the_page_speaks_of_every_name_and_setting(repository):
    page = (repository / "docs/compat/plenoxels.md").read_text(encoding="utf-8")
    assert [name for name in plenoxels.__all__ if name not in page] == []
    for config in (NeuralVDBConfig(), NeuralVDBTrainerConfig(), PlenoxelConfig(), PlenoxelDatasetConfig("x")):
        unnamed = [name for name in vars(config) if f"`{name}" not in page and f"`{name[9:]}" not in page]
        assert unnamed == []


def test_defaults_are_the_documents():
    config = NeuralVDBConfig()
    assert (config.compression_level, config.half_precision, config.chunk_size) == (6, True, (64, 64, 64))
    assert (config.tolerance, config.background_value, config.include_metadata) == (1e-4, 0.0, True)
    trainer = NeuralVDBTrainerConfig()
    assert (trainer.save_neuralvdb, trainer.neuralvdb_save_interval, trainer.create_lod) == (True, 10000, False)
    assert (trainer.lod_levels, trainer.optimize_storage) == (3, True)


class TestStorage:
    def test_all_but_the_least_dense_comes_back(self, grid, tmp_path):
        config = PlenoxelConfig(grid_resolution=(16, 14, 12), sh_degree=1, coarse_epochs=(1, 2, 3), near_plane=0.25)
        assert save_plenoxel_as_neuralvdb(grid, tmp_path / "model.vdb", config, NeuralVDBConfig(half_precision=False))
        found, said = load_plenoxel_from_neuralvdb(tmp_path / "model.vdb", "cpu")
        assert said == config
        assert (found.resolution, found.scene_bounds, found.sh_degree) == ((16, 14, 12), grid.scene_bounds, 1)
        kept = grid.density.abs() > 1e-4
        assert found.num_voxels == int(kept.sum()) <= grid.num_voxels - 50
        rows = found.rows_in(grid)
        assert torch.equal(found.density, grid.density[rows])
        assert torch.equal(found.sh, grid.sh[rows])

    @pytest.mark.parametrize(
        ("level", "compression"), [(0, "none"), (1, "blosc"), (6, "blosc"), (7, "zip"), (9, "zip")]
    )
    def test_levels_choose_codec_and_effort(self, grid, tmp_path, level, compression):
        path = NeuralVDBManager(NeuralVDBConfig(compression_level=level)).export_plenoxel_to_vdb(
            grid, tmp_path / "a.vdb"
        )
        said = voxfield.volume_info(path)["grids"][0]["compression"]
        assert said == "active values" if compression == "none" else said == f"{compression} + active values"

    def test_more_compression_makes_smaller_files(self, grid, tmp_path):
        with torch.no_grad():
            grid.sh.copy_(grid.sh.round())
        sizes = [
            NeuralVDBManager(NeuralVDBConfig(compression_level=level))
            .export_plenoxel_to_vdb(grid, tmp_path / f"{level}.vdb")
            .stat()
            .st_size
            for level in (0, 6, 9)
        ]
        assert sizes[0] > sizes[1] > sizes[2]

    def test_settings_do_what_they_say(self, grid, tmp_path):
        manager = NeuralVDBManager(
            NeuralVDBConfig(half_precision=False, background_value=-1.0, use_lod=True, lod_levels=2)
        )
        path = manager.export_plenoxel_to_vdb(grid, tmp_path / "model.vdb", PlenoxelConfig(), {"epoch": 3})
        assert VdbFile(path).read("density").volume.background == -1
        assert sorted(one.name for one in (tmp_path / "model_lod").iterdir()) == ["lod_0.vdb", "lod_1.vdb"]
        assert read_voxel_vdb(path).configuration["training"] == {"epoch": 3}
        manager.config = NeuralVDBConfig(include_metadata=False, include_training_info=False)
        manager.export_plenoxel_to_vdb(grid, path, PlenoxelConfig(), {"epoch": 3})
        assert read_voxel_vdb(path).configuration == {}
        # The settings that fit the grid, where the file has none.
        assert manager.load_plenoxel_from_vdb(path)[1].grid_resolution == (16, 14, 12)
        before = path.stat().st_size
        assert manager.optimize_vdb_storage(path) == path
        assert path.stat().st_size < before
        assert manager.load_plenoxel_from_vdb(path)[0].num_voxels == int((grid.density.abs() > 1e-4).sum())

    def test_chunk_size_bounds_the_memory(self, tmp_path):
        grid = VoxelGrid(48, (-1, -1, -1, 1, 1, 1), 2)
        peaks = []
        for side in (8, 64):
            manager = NeuralVDBManager(NeuralVDBConfig(chunk_size=(side, side, side), compression_level=0))
            tracemalloc.start()
            try:
                manager.export_plenoxel_to_vdb(grid, tmp_path / "model.vdb")
                peaks.append(tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()
        assert peaks[1] > peaks[0] + 48**3 * 12

    def test_statistics(self, grid, tmp_path):
        manager = NeuralVDBManager()
        path = manager.export_plenoxel_to_vdb(grid, tmp_path / "model.vdb")
        stats = manager.get_storage_stats(path)
        assert stats["file_size_mb"] == path.stat().st_size / 1e6
        assert stats["num_grids"] == 5
        density = stats["grids"]["density"]
        assert density["grid_class"] == "fog volume"
        assert density["active_voxel_count"] == stats["total_active_voxels"] == int((grid.density.abs() > 1e-4).sum())
        assert density["bounding_box"]["min"] == [0, 0, 0]
        assert density["memory_usage_mb"] > 0

    @pytest.mark.parametrize(
        "changes",
        [{"compression_level": 10}, {"compression_level": -1}, {"chunk_size": (64, 64)}, {"chunk_size": (0, 1, 1)},
         {"tolerance": -1.0}, {"tolerance": float("nan")}, {"lod_levels": 0}],
        ids=str,
    )  # fmt: skip
    def test_settings_that_make_no_sense(self, grid, tmp_path, changes):
        with pytest.raises(InputError, match=next(iter(changes))):
            save_plenoxel_as_neuralvdb(grid, tmp_path / "a.vdb", None, NeuralVDBConfig(**changes))
        assert not (tmp_path / "a.vdb").exists()

    def test_files_that_are_none(self, tmp_path):
        with pytest.raises(MissingFileError):
            load_plenoxel_from_neuralvdb(tmp_path / "none.vdb")
        (tmp_path / "a.vdb").write_bytes(b"no")
        with pytest.raises(VolumeFormatError):
            load_plenoxel_from_neuralvdb(tmp_path / "a.vdb")

    def test_devices_that_are_not_here(self, grid, tmp_path):
        save_plenoxel_as_neuralvdb(grid, tmp_path / "a.vdb")
        missing = "cuda:63" if torch.accelerator.is_available() else "cuda"
        for device in (missing, torch.device(missing)):
            with pytest.raises(UnavailableError, match=f"'{missing}' cannot be used here.*There is: cpu"):
                load_plenoxel_from_neuralvdb(tmp_path / "a.vdb", device=device)
        assert load_plenoxel_from_neuralvdb(tmp_path / "a.vdb", device="cpu")[0].density.device.type == "cpu"


class TestTraining:
    def test_training_learns_and_measures(self, tiny_capture, tmp_path):
        trainer = trainer_of(
            tiny_capture,
            tmp_path,
            max_epochs=120,
            eval_interval=30,
            save_interval=50,
            save_neuralvdb=False,
            model=PlenoxelConfig((16, 16, 16), sh_degree=1, use_coarse_to_fine=False),
            pruning_interval=60,
        )
        assert trainer.train() == {"outcome": "finished", "step": 120}
        found = [one["psnr"] for one in trainer.evaluations]
        assert [one["epoch"] for one in trainer.evaluations] == [30, 60, 90, 120]
        assert found[-1] > found[0]
        assert found[-1] > 14
        assert not list(trainer.run_dir.glob("*.vdb"))
        assert (trainer.run_dir / "checkpoints/step-000000100.pt").is_file()
        assert trainer.model.grid.num_voxels < 16**3  # pruned at 60

    def test_a_vdb_checkpoint_is_gone_on_from(self, tiny_capture, tmp_path):
        vdb = NeuralVDBConfig(half_precision=False, tolerance=0.0)
        first = trainer_of(tiny_capture, tmp_path, neuralvdb_save_interval=8, neuralvdb_config=vdb)
        first.train()
        with pytest.raises(InputError, match="holds a run already"):
            trainer_of(tiny_capture, tmp_path).train()
        second = trainer_of(
            tiny_capture, tmp_path, neuralvdb_config=vdb, resume_from="checkpoint_epoch_8.vdb", max_epochs=14
        )
        assert (second.epoch, second.model.grid.resolution) == (8, (16, 16, 16))
        stage = read_voxel_vdb(first.run_dir / "checkpoint_epoch_8.vdb").configuration["training"]["stage"]
        assert int(second.model.stage) == stage == 3
        result = second.train()
        assert (result["outcome"], result["step"]) == ("finished", 14)
        assert (second.run_dir / "final_model.vdb").is_file()
        # Voxfield's own checkpoint too.
        newest = max((second.run_dir / "checkpoints").iterdir())
        third = trainer_of(tiny_capture, tmp_path, resume_from=newest, max_epochs=15)
        assert third.epoch == 14
        assert third.train()["step"] == 15

    def test_checkpoints_that_do_not_fit(self, tiny_capture, tmp_path, grid):
        save_plenoxel_as_neuralvdb(grid, tmp_path / "other.vdb")
        with pytest.raises(InputError, match=r"other\.vdb: .*same capture settings"):
            trainer_of(
                tiny_capture,
                tmp_path,
                replace(eval(SMALL), scene_bounds=(0, 0, 0, 1, 1, 1)),
                resume_from=tmp_path / "other.vdb",
            )
        with pytest.raises(MissingFileError):
            trainer_of(tiny_capture, tmp_path, resume_from="none.vdb")

    @pytest.mark.parametrize(
        "settings",
        [{"weight_decay": 0.1}, {"learning_rate": 0.0}, {"lr_decay": 2.0}, {"pruning_threshold": 2.0},
         {"max_epochs": 0}, {"pruning_interval": 0}, {"color_loss_weight": 0.0}, {"eval_interval": 0},
         {"neuralvdb_compression_level": 11}, {"lod_save_interval": 0}],
        ids=str,
    )  # fmt: skip
    def test_settings_that_make_no_sense(self, tiny_capture, tmp_path, settings):
        with pytest.raises(InputError):
            trainer_of(tiny_capture, tmp_path, **settings)

    def test_stages_that_make_no_sense(self, tiny_capture, tmp_path):
        for changes in ({"coarse_epochs": (1, 2)}, {"far_plane": 0.05}):
            with pytest.raises(InputError):
                trainer_of(tiny_capture, tmp_path, replace(eval(SMALL), **changes))
        falling = replace(eval(SMALL), coarse_resolutions=((4, 4, 4), (8, 8, 8)), coarse_epochs=(6, 3))
        with pytest.raises(InputError, match="rising"):
            trainer_of(tiny_capture, tmp_path, falling)
