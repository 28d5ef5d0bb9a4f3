"""A diffusion from training to files, in next to no time."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import voxfield
from voxfield.api.diffusion import DiffusionRun
from voxfield.cli.__main__ import main
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.recipes import read_settings
from voxfield.storage.run_log import read_log

SMALL = (
    "model.channels=8,8",
    "model.attention=false,true",
    "model.norm_groups=4",
    "model.head_channels=8",
    "model.batch_size=2",
    "model.schedule.timesteps=10",
    "sampling.steps=2",
    "data.procedural_count=24",
    "data.procedural_resolution=8",
    "data.train_ratio=0.75",
    "trainer.log_every=2",
    "trainer.tensorboard=false",
    "trainer.ema_decay=0.0",
    "trainer.learning_rate.initial=0.02",
    "trainer.learning_rate.warm_up_steps=0",
)


def trained(output: Path, *more: str, data: Path | str = "procedural", **options: object) -> DiffusionRun:
    settings: dict[str, object] = {"steps": 4, "device": "cpu", "quiet": True, **options}
    run = voxfield.train("diffusion", data, output=output, overrides=[*SMALL, *more], **settings)  # type: ignore[arg-type]
    assert isinstance(run, DiffusionRun)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> DiffusionRun:
    return trained(tmp_path_factory.mktemp("runs") / "run")


def test_a_run_is_logged_opened_and_described(run: DiffusionRun) -> None:
    assert run.outcome == "finished"
    log = read_log(run.path / "log.jsonl")
    last = next(entry for entry in reversed(log) if entry["kind"] == "train")
    assert last["num_volumes"] == 2
    assert next(entry for entry in log if entry["kind"] == "eval")["loss"] > 0
    opened = voxfield.open(run.path)
    assert isinstance(opened, DiffusionRun)
    assert opened.experiment.model.volume_shape == (8, 8, 8)
    assert opened.info()["settings"]["model"]["prediction"] == "x0"
    assert "volumes" in (run.path / "report.html").read_text(encoding="utf-8")


def test_an_interrupted_training_resumes_as_if_it_had_not_been(tmp_path: Path) -> None:
    trained(tmp_path / "halves", "trainer.accumulate=2", steps=2)
    resumed = voxfield.train("diffusion", output=tmp_path / "halves", steps=4, resume=True, device="cpu", quiet=True)
    whole = trained(tmp_path / "whole", "trainer.accumulate=2")
    assert isinstance(resumed, DiffusionRun)
    for one, other in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_the_command_writes_every_format_and_metrics(
    run: DiffusionRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    formats = ["hdf5", "tiff", "vdb", "mesh", "points", "sheet", "turntable"]
    arguments = ["sample", "diffusion", str(run.path), "--num", "3", "--sampler", "dpm-solver++", "--steps", "3"]
    arguments += ["--output", str(tmp_path), "--threshold", "0.01", "--reference", "procedural", "--quiet"]
    assert main([*arguments, "--formats", *formats, "--method", "dual_contouring"]) == 0
    assert "coverage" in capsys.readouterr().out
    with h5py.File(tmp_path / "samples.h5") as file:
        assert file["voxels"].shape == (3, 8, 8, 8)
        assert file.attrs["sampler"] == "dpm-solver++"
    for name in ("contact_sheet.png", "turntable.gif", "tiff/sample_0002.tif", "vdb/sample_0000.vdb"):
        assert (tmp_path / name).is_file()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics["baselines"]) == {"mean_shape", "noise"}
    assert metrics["training"].keys() == metrics["generated"].keys()
    assert 0 < metrics["generated"]["coverage"] <= 1
    assert len(metrics["nearest_training"]["generated"]["each"]) == 3
    assert metrics["protocol"]["training"] == 18
    assert metrics["sampling"]["steps"] == 3


def test_every_batch_has_noise_of_its_own(run: DiffusionRun) -> None:
    made = run.generate(6, batch=2, quiet=True)
    assert len(torch.unique(made.flatten(1), dim=0)) == 6
    assert torch.equal(made[:4], run.generate(4, batch=2, quiet=True))


def test_the_same_seed_gives_the_same_files_whatever_else_was_drawn(run: DiffusionRun, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        run.sample(tmp_path / name, 3, seed=seed, batch=2, formats=("hdf5",), quiet=True)
    drawn = {}
    for name in ("one", "same", "other"):
        with h5py.File(tmp_path / name / "samples.h5") as file:
            drawn[name] = file["voxels"][:]
    assert np.array_equal(drawn["one"], drawn["same"])
    assert not np.array_equal(drawn["one"], drawn["other"])
    assert not np.array_equal(drawn["one"][0], drawn["one"][2])


def test_a_run_is_evaluated_on_what_was_held_out(run: DiffusionRun) -> None:
    assert main(["eval", str(run.path), "--quiet"]) == 0
    metrics = json.loads((run.path / "eval/test/metrics.json").read_text())
    assert metrics["protocol"]["reference"] == 3
    assert (run.path / "eval/test/contact_sheet.png").is_file()


def test_classes_are_learnt_and_asked_for(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "model.classes=8")
    made = run.sample(tmp_path / "out", 2, label=3, guidance=2.0, formats=("hdf5",), quiet=True)
    assert made["files"] == [tmp_path / "out" / "samples.h5"]
    with pytest.raises(InputError, match="labels: expected 2 from 0 to 7"):
        run.sample(tmp_path / "out", 2, label=8, quiet=True)
    with pytest.raises(InputError, match=r"model\.classes: 9, but procedural has 8"):
        trained(tmp_path / "nine", "model.classes=9")


def test_samples_say_and_bound_their_memory(
    run: DiffusionRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=r"volumes drawn together .*--memory allows 2\.00 GB\. Take a smaller --batch"):
        run.sample(tmp_path / "made", 1_000_000, batch=1_000_000, memory="2GB", quiet=True)
    assert not list(tmp_path.iterdir())
    options = ["--num", "2", "--output", str(tmp_path / "made"), "--memory", "8GB", "--formats", "hdf5"]
    assert main(["sample", "diffusion", str(run.path), *options]) == 0
    assert "Needs about" in capsys.readouterr().err
    assert (tmp_path / "made/samples.h5").is_file()


def test_drawing_more_at_once_takes_more(run: DiffusionRun) -> None:
    few, many = (run.model.sampling_bytes(count) for count in (2, 20))
    assert few > 0
    assert many == pytest.approx(10 * few, rel=0.1)
    assert run.model.sampling_bytes(run.model.batch_size()) < run.model.step_bytes()


def test_samples_can_be_trained_on(run: DiffusionRun, tmp_path: Path) -> None:
    run.sample(tmp_path, 6, formats=("hdf5",), quiet=True)
    again = trained(tmp_path / "again", data=tmp_path / "samples.h5", steps=1)
    assert again.experiment.model.volume_shape == (8, 8, 8)


def test_bad_requests_are_refused_in_words(
    run: DiffusionRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="multiples of 8"):
        trained(tmp_path / "odd", "data.procedural_resolution=12")
    with pytest.raises(MissingFileError, match="no such file or folder"):
        trained(tmp_path / "absent", data=tmp_path / "absent.h5")
    for options, error in (
        ({"formats": ("stl",)}, "formats: unknown value 'stl'"),
        ({"steps": 11}, "at most 10, got 11"),
        ({"count": 0}, "num: expected a value at least 1"),
        ({"threshold": 0.0}, "threshold"),
        ({"guidance": 3.0}, "needs a condition"),
        ({"label": 1}, "takes none"),
    ):
        with pytest.raises(InputError, match=error):
            run.sample(tmp_path / "out", quiet=True, **options)  # type: ignore[arg-type]
    np.save(tmp_path / "large.npy", np.random.default_rng(0).random((4, 16, 16, 16)))
    with pytest.raises(InputError, match="reference: expected volumes"):
        run.sample(tmp_path / "out", 2, reference=tmp_path / "large.npy", quiet=True)
    np.save(tmp_path / "one.npy", np.random.default_rng(0).random((1, 8, 8, 8)))
    with pytest.raises(InputError, match=r"one\.npy holds 1 volumes; two are needed"):
        run.sample(tmp_path / "out", 2, reference=tmp_path / "one.npy", quiet=True)
    with pytest.raises(InputError, match=r"projection: .* was trained without"):
        run.sample(tmp_path / "out", 2, projection=tmp_path / "one.npy", quiet=True)
    assert not (tmp_path / "out").exists()
    (tmp_path / "cut.h5").write_bytes(b"nothing")
    with pytest.raises(FormatError, match=r"cut\.h5"):
        run.sample(tmp_path / "out", 2, reference=tmp_path / "cut.h5", quiet=True)
    assert main(["sample", "diffusion", str(tmp_path)]) == 2
    assert "is not a run directory" in capsys.readouterr().err


def test_an_empty_held_out_split_is_found_before_sampling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path / "run", "data.train_ratio=1.0")
    monkeypatch.setattr(DiffusionRun, "generate", lambda *_, **__: pytest.fail("volumes were drawn in vain"))
    with pytest.raises(InputError, match="0 of its 24 volumes were held out; two are needed"):
        run.sample(tmp_path / "out", 2, reference="procedural", quiet=True)


def test_projections_are_given_by_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    from voxfield.models.diffusion import Condition

    run = trained(tmp_path / "run", "model.projection=y", steps=6)
    means = np.random.default_rng(0).random((2, 8, 8)).astype(np.float32)
    np.save(tmp_path / "each.npy", means)
    Image.fromarray((means[0] * 255).round().astype(np.uint8)).save(tmp_path / "one.png")
    voxels = []
    for number, options in enumerate(([], ["--projection", str(tmp_path / "each.npy")])):
        folder = tmp_path / f"out{number}"
        arguments = ["sample", "diffusion", str(run.path), "--num", "2", "--output", str(folder), "--formats", "hdf5"]
        assert main([*arguments, "--quiet", *options]) == 0
        said = capsys.readouterr().out
        assert ("trained with projections along y and was given none (--projection FILE)" in said) == (not options)
        with h5py.File(folder / "samples.h5") as file:
            voxels.append(torch.from_numpy(file["voxels"][:]))
    shown = run.generate(2, condition=Condition(projection=torch.from_numpy(means)), quiet=True)
    torch.testing.assert_close(voxels[1].reshape(shown.shape), shown, atol=1e-3, rtol=0)
    assert not torch.allclose(voxels[0].reshape(shown.shape), shown, atol=1e-3)
    run.sample(tmp_path / "picture", 3, projection=tmp_path / "one.png", formats=("hdf5",), quiet=True)
    for values, error, message in (
        (np.full((8, 8), 2.0), FormatError, "expected numbers from 0 to 1"),
        (np.full((8, 8), np.nan), FormatError, "expected numbers from 0 to 1"),
        (np.zeros((3, 8, 8)), InputError, r"one for each of 2 volumes, got \(3, 8, 8\)"),
        (np.zeros((4, 8)), InputError, "expected 8 rows of 8 values"),
    ):
        np.save(tmp_path / "bad.npy", values)
        with pytest.raises(error, match=message):
            run.sample(tmp_path / "bad", 2, projection=tmp_path / "bad.npy", quiet=True)


def test_the_example_settings_are_ours(repository: Path) -> None:
    from voxfield.recipes import load_recipe
    from voxfield.training.experiment import resolve
    from voxfield.training.settings import load_config_file

    path = repository / "examples" / "diffusion.yaml"
    settings, notes = read_settings("diffusion", load_config_file(path), str(path))
    assert notes == []
    experiment = resolve(load_recipe("diffusion"), config=path, translate=lambda _: settings)
    expected = resolve(load_recipe("diffusion"), overrides=["data.path=procedural"])
    assert experiment == expected


def test_files_of_other_programs_are_understood() -> None:
    document = {
        "data": {"use_prerendered": True, "prerendered_dir": "/data/prerendered", "voxel_size": 128},
        "model": {"model_channels": 32, "channel_mult": [1, 2, 4], "attention_resolutions": [32], "use_ema": False},
        "training": {"batch_size": 1, "learning_rate": 1e-4, "accumulate_grad_batches": 4, "max_epochs": 10},
        "validation": {"ddim_steps": 100},
        "system": {"pin_memory": True},
        "prerender": {"output_dir": "/data/prerendered"},
    }
    settings, notes = read_settings("diffusion", document, "file.yaml")
    assert settings["data"] == {"path": "/data/prerendered"}
    assert settings["model"]["channels"] == [32, 64, 128]
    assert settings["model"]["attention"] == [False, False, True]
    assert settings["trainer"]["accumulate"] == 4
    assert settings["trainer"]["ema_decay"] == 0.0
    assert "training.max_epochs, system.pin_memory" in notes[0]
    with pytest.raises(InputError, match="prerendered_dir has to name"):
        read_settings("diffusion", {"training": {}, "data": {"use_prerendered": True}}, "file.yaml")
    with pytest.raises(InputError, match="unknown section 'modle'"):
        read_settings("diffusion", {"training": {}, "modle": {}}, "file.yaml")


def test_monai_is_not_loaded_until_a_network_is_made() -> None:
    import subprocess
    import sys

    code = "import sys, voxfield.api.diffusion, voxfield.cli.sample_diffusion; print('monai' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert said.stdout.strip() == "False"
