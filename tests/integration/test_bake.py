"""Baking from end to end on a tiny capture, through the public calls and the command line."""

import json
from pathlib import Path

import pytest

import voxfield
from voxfield.cli.__main__ import main
from voxfield.data.synthetic import posed_images, write_nerfstudio
from voxfield.errors import InputError

FEW = ("model.rays_per_batch=300", "model.pruning_rays=4000", "trainer.tensorboard=false", "trainer.log_every=5")


PROPOSALS = (
    "model.field.num_levels=6",
    "model.field.log2_table_size=12",
    "model.field.base_resolution=8",
    "model.field.max_resolution=64",
    "model.field.hidden=32",
    "model.field.colour_layers=1",
    "model.coarse_proposal.num_samples=32",
    "model.coarse_proposal.log2_table_size=10",
    "model.coarse_proposal.max_resolution=32",
    "model.fine_proposal.num_samples=24",
    "model.fine_proposal.log2_table_size=10",
    "model.fine_proposal.max_resolution=32",
    "model.num_samples=16",
    "model.rays_per_batch=512",
    "model.annealing_steps=50",
    "trainer.tensorboard=false",
)
"""A small field sampled by proposal networks."""
QUICKLY = (
    "trainer.learning_rate.initial=2e-2",
    "trainer.learning_rate.decay_from=0.5",
    "trainer.learning_rate.warm_up_steps=20",
)


@pytest.fixture(scope="module")
def source(tiny_capture: Path, tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bake") / "source"
    voxfield.train("grid-ngp", tiny_capture, output=output, steps=120, device="cpu", quiet=True, overrides=tiny)
    return output


def test_a_run_is_baked_into_an_ordinary_one(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "baked"
    options = ["--output", str(output), "--resolution", "32", "--steps", "40", "--device", "cpu", "--quiet"]
    assert main(["bake", str(source), *options, *(word for value in FEW for word in ("--set", value))]) == 0
    said = capsys.readouterr().out
    assert "Source" in said
    facts = json.loads((output / "bake.json").read_text(encoding="utf-8"))
    assert facts["psnr"]["sampled"] > facts["psnr"]["source"] - 4.0
    assert facts["psnr"]["trained"] > facts["psnr"]["source"] - 1.0
    assert 0 < facts["voxels"] < 32**3 / 2
    run = voxfield.open(output)
    assert run.experiment.recipe == "plenoxels"
    assert max(run.model.grid.resolution) == 32
    assert run.info()["step"] == 40
    assert len(run.render_path("orbit", frames=1, width=16, format="images", quiet=True)) == 1
    assert (output / "report.html").is_file()
    longer = voxfield.train(
        "plenoxels", run.record.data_path, output=output, steps=45, resume=True, device="cpu", quiet=True
    )
    assert longer.outcome == "finished"
    with pytest.raises(InputError, match="holds a run already"):
        voxfield.bake(source, output, quiet=True)


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("nerfacto", (*PROPOSALS, "model.field.appearance=4")),
        ("pynerf", (*PROPOSALS, "model.sampling=proposal", "model.pyramid.num_levels=5", *QUICKLY)),
    ],
)
def test_fields_with_proposals_are_baked_too(
    recipe: str, settings: tuple[str, ...], tiny_capture: Path, tmp_path: Path
) -> None:
    run = voxfield.train(
        recipe, tiny_capture, output=tmp_path / "run", steps=150, device="cpu", quiet=True, overrides=settings
    )
    assert run.record.experiment.recipe == recipe
    baked = voxfield.bake(
        run, tmp_path / "baked", resolution=32, steps=40, max_images=2, quiet=True, device="cpu", overrides=FEW
    )
    assert baked.run.experiment.recipe == "plenoxels"
    assert baked.sampled_psnr is not None
    assert baked.source_psnr is not None
    assert baked.source_psnr > 12.0
    assert baked.sampled_psnr > baked.source_psnr - 5.0
    assert baked.lost is not None
    assert baked.lost < 2.0
    assert json.loads((tmp_path / "baked" / "bake.json").read_text(encoding="utf-8"))["source_recipe"] == recipe


def test_bad_settings_are_refused_before_work_starts(source: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"steps": 0}, "steps: expected a value at least 1"),
        ({"resolution": 2}, "resolution: expected a value at least 8"),
        ({"overrides": ("model.resolutions=[[8,8,8],[8,8,8]]",)}, "Use --resolution"),
    ):
        with pytest.raises(InputError, match=message):
            voxfield.bake(source, tmp_path / "none", quiet=True, device="cpu", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "none").exists()


def test_what_lies_beyond_the_region_is_baked_too(tmp_path: Path, tiny: tuple[str, ...]) -> None:
    write_nerfstudio(tmp_path / "capture", posed_images(count=8, resolution=24), aabb_scale=4)
    source = tmp_path / "source"
    voxfield.train("grid-ngp", tmp_path / "capture", output=source, steps=60, device="cpu", quiet=True, overrides=tiny)
    # Spheres that take more memory than the grid, which the training must not make smaller than those sampled.
    settings = (*FEW, "model.spheres.height=128", "model.spheres.layers=6")
    baked = voxfield.bake(
        source, tmp_path / "baked", resolution=24, steps=20, quiet=True, device="cpu", overrides=settings
    )
    assert baked.run.model.spheres is not None
    assert baked.run.model.spheres.links.shape == (6, 128, 256)
    assert "sees beyond the grid" in baked.notes[0]
    assert baked.lost is not None
    assert baked.lost < 6.0
