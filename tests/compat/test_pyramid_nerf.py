"""The document's snippets, as docs/compat/pyramid_nerf.md has them, on small data; and what they do not show."""

import re
from dataclasses import replace

import pytest
import torch

from voxfield.compat import pyramid_nerf
from voxfield.compat.pyramid_nerf import (
    MultiScaleDataset,
    MultiScaleTrainer,
    PyNeRF,
    PyNeRFConfig,
    PyNeRFDataset,
    PyNeRFTrainer,
    PyramidEncoder,
    PyramidRenderer,
    compute_psnr,
    compute_sample_area,
    compute_ssim,
    convert_to_nerfstudio_format,
    create_pyramid_hierarchy,
    get_pyramid_level,
    interpolate_pyramid_outputs,
    load_pyramid_model,
    save_pyramid_model,
)
from voxfield.errors import FormatError, InputError, MissingFileError, UnavailableError
from voxfield.export.weights import read_weights
from voxfield.render.metrics import psnr, ssim

DOCUMENTED_FUNCTIONS = """
from pyramid_nerf import (
    compute_sample_area,
    get_pyramid_level,
    interpolate_pyramid_outputs,
    create_pyramid_hierarchy,
    save_pyramid_model,
    load_pyramid_model,
    compute_psnr,
    compute_ssim
)

# Compute sample areas for pyramid level selection
sample_areas = compute_sample_area(rays_o, rays_d, z_vals)

# Get appropriate pyramid level
pyramid_levels = get_pyramid_level(sample_areas, level_resolutions)

# Save/load models
save_pyramid_model(model, config, "model.pth")
model, config = load_pyramid_model(model, "model.pth")

# Compute metrics
psnr = compute_psnr(pred_image, gt_image)
ssim = compute_ssim(pred_image, gt_image)
"""
"""What the document has under "Utility Functions", letter for letter."""

MISSING_DEVICE = "cuda:63" if torch.accelerator.is_available() else "cuda"
SMALL = (
    "PyNeRFConfig(num_levels=4, max_resolution=128, hash_table_size=2**10, hidden_dim=32, num_layers=1, "
    "batch_size=128, max_steps=12, num_samples=16, num_importance=16)"
)


@pytest.fixture
def small():
    return eval(SMALL)


@pytest.fixture
def model(small):
    return PyNeRF(small)


@pytest.fixture
def rays(tiny_capture):
    picture = PyNeRFDataset(tiny_capture)[0]
    return picture["rays_o"].reshape(-1, 3)[400:440], picture["rays_d"].reshape(-1, 3)[400:440]


def test_the_snippets_run(repository, tiny_capture, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (repository / "docs/compat/pyramid_nerf.md").read_text(encoding="utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(snippets) == 8
    names = {}
    for number, snippet in enumerate(snippets):
        text = snippet.replace("/path/to/data", str(tiny_capture)).replace("PyNeRFConfig()", SMALL)
        exec(compile(text, f"snippet {number}", "exec"), names)
    assert "[32, 48, 72, 108, 162, 243]" in capsys.readouterr().out
    assert names["outputs"]["rgb"].shape == (64, 3)
    assert names["features"].shape == (64, 32)
    assert names["result"]["outcome"] == "finished"
    assert [scale["scale"] for scale in names["result"]["metrics"]["per_scale"]] == [1, 2, 4, 8]
    assert 0 < names["psnr"] < 60
    assert (tmp_path / "exported_model/weights.safetensors").is_file()
    assert all(parameter.grad is not None for parameter in names["model"].field_model.field.tables)


def test_the_documents_functions_run_as_written(small, model, rays, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    pred_image, gt_image = torch.rand(2, 16, 16, 3, generator=generator)
    names = {
        "model": model,
        "config": small,
        "rays_o": rays[0],
        "rays_d": rays[1],
        "z_vals": torch.linspace(2.0, 6.0, 8).expand(40, 8),
        "level_resolutions": create_pyramid_hierarchy(),
        "pred_image": pred_image,
        "gt_image": gt_image,
    }
    with pytest.warns(UserWarning, match="rays alone do not say how wide pixels are"):
        exec(DOCUMENTED_FUNCTIONS.replace("from pyramid_nerf", "from voxfield.compat.pyramid_nerf"), names)
    assert names["pyramid_levels"].shape == (40, 8)
    width = names["z_vals"] * rays[1].norm(dim=1, keepdim=True) / 1111
    torch.testing.assert_close(names["pyramid_levels"], 7 - torch.log2(2048 * width))
    assert names["config"] == small
    assert names["psnr"] == compute_psnr(pred_image, gt_image)
    assert names["ssim"] == compute_ssim(pred_image, gt_image)


def test_the_page_speaks_of_every_name(repository):
    page = (repository / "docs/compat/pyramid_nerf.md").read_text(encoding="utf-8")
    assert [name for name in pyramid_nerf.__all__ if name not in page] == []


class TestLevels:
    def test_areas_are_the_pixels_at_their_distance(self):
        rays_o, rays_d = torch.zeros(2, 3), torch.tensor([[0.0, 0.0, 1.0], [0.0, 2.0, 0.0]])
        z_vals = torch.tensor([[1.0, 2.0], [1.0, 3.0]])
        by_focal = compute_sample_area(rays_o, rays_d, z_vals, focal=100.0)
        torch.testing.assert_close(by_focal, torch.tensor([[1.0, 4.0], [4.0, 36.0]]) * 1e-4)
        own = compute_sample_area(rays_o, rays_d, z_vals, pixel_area=torch.tensor([1e-4, 4e-4]))
        torch.testing.assert_close(own, torch.tensor([[1.0, 4.0], [16.0, 144.0]]) * 1e-4)

    def test_without_the_pixels_width_that_of_the_settings_is_taken_with_a_warning(self):
        rays_o, rays_d, z_vals = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[1.0, 3.0]])
        with pytest.warns(UserWarning, match=r"1/1111 of the distance is taken.*Give pixel_area") as caught:
            area = compute_sample_area(rays_o, rays_d, z_vals)
        assert len(caught) == 1
        torch.testing.assert_close(area, (PyNeRFConfig().pixel_width * torch.tensor([[2.0, 6.0]])).square())

    @pytest.mark.parametrize("options", [{"focal": 10.0, "pixel_area": 0.1}, {"focal": 0.0}])
    def test_areas_need_the_pixels_width_once(self, options):
        with pytest.raises(InputError):
            compute_sample_area(torch.zeros(1, 3), torch.ones(1, 3), torch.ones(1, 1), **options)

    def test_levels_are_the_papers(self):
        # aoi 4, finest resolution 2048, factor 2, 8 levels.
        width = torch.tensor([[4 / 2048, 1.5 * 4 / 2048], [0.04, 1.0]])
        level = get_pyramid_level(width.square(), create_pyramid_hierarchy(), extent=4.0)
        expected = torch.tensor([[7.0, 6.415], [2.644, -2.0]])
        torch.testing.assert_close(level, expected, atol=1e-3, rtol=0)
        assert float(get_pyramid_level(torch.tensor(1 / 64), [2, 4, 8, 16])) == pytest.approx(2.0)

    def test_rounded_hierarchies_are_pyramids(self):
        resolutions = create_pyramid_hierarchy(6, 32, 1.5, 1024)
        assert resolutions == [32, 48, 72, 108, 162, 243]
        level = get_pyramid_level(torch.tensor([(1 / 243) ** 2, (1 / 32) ** 2]), resolutions)
        torch.testing.assert_close(level, torch.tensor([5.0, 0.0]), atol=1e-3, rtol=0)

    @pytest.mark.parametrize("areas", [0.0, -1.0, float("nan"), float("inf")])
    def test_footprints_that_are_none(self, areas):
        with pytest.raises(InputError, match="pixel widths above 0 and finite"):
            get_pyramid_level(torch.tensor([1e-4, areas]), [16, 32])

    @pytest.mark.parametrize("resolutions", [[], [32, 16], [16, 32, 128], [0, 1], [16, 16]])
    def test_resolutions_that_are_no_pyramid(self, resolutions):
        with pytest.raises(InputError, match="rise by one factor"):
            get_pyramid_level(torch.tensor([1e-4]), resolutions)

    def test_hierarchies_end_where_they_must(self):
        assert create_pyramid_hierarchy() == [16, 32, 64, 128, 256, 512, 1024, 2048]
        with pytest.raises(InputError, match="Take at most 7"):
            create_pyramid_hierarchy(max_resolution=2000)

    def test_outputs_are_blended_between_neighbours(self):
        levels = torch.tensor([-1.0, 0.0, 0.25, 1.5, 2.0, 9.0])
        rgb = [torch.full((6, 3), float(level)) for level in range(3)]
        sigma = [torch.full((6, 1), 10.0 * level) for level in range(3)]
        blended, density = interpolate_pyramid_outputs(rgb, sigma, levels, 6, "cpu")
        expected = torch.tensor([0.0, 0.0, 0.25, 1.5, 2.0, 2.0])
        torch.testing.assert_close(blended, expected[:, None].expand(6, 3))
        torch.testing.assert_close(density, 10 * expected[:, None])
        empty, none = interpolate_pyramid_outputs([torch.zeros(0, 3)], [torch.zeros(0)], torch.zeros(0))
        assert (empty.shape, none.shape) == ((0, 3), (0,))

    def test_outputs_that_do_not_fit(self):
        rgb, sigma, levels = torch.zeros(4, 3), torch.zeros(4), torch.zeros(4)
        for arguments in (
            ([], [], levels),
            ([rgb], [], levels),
            ([rgb], [sigma[:3]], levels),
            ([rgb], [sigma], levels, 5),
        ):
            with pytest.raises(InputError):
                interpolate_pyramid_outputs(*arguments)


class TestModel:
    def test_outputs_do_not_depend_on_the_length_of_directions(self, model, rays):
        rays_o, rays_d = rays
        once = model(rays_o, rays_d, (2.0, 6.0))
        twice = model(rays_o, 2 * rays_d, (1.0, 3.0))
        torch.testing.assert_close(once["rgb"], twice["rgb"])
        torch.testing.assert_close(once["depth"], 2 * twice["depth"], atol=1e-5, rtol=1e-4)

    def test_wider_pixels_ask_for_coarser_levels(self, model, rays):
        rays_o, rays_d = rays
        with torch.no_grad():
            for table in model.field_model.field.tables:
                table.mul_(1e4)
        fine = model(rays_o, rays_d, pixel_area=torch.full((40,), 1e-8))
        coarse = model(rays_o, rays_d, pixel_area=torch.full((40,), 1e-2))
        assert not torch.allclose(fine["rgb"], coarse["rgb"])

    @pytest.mark.parametrize(
        ("bounds", "area"),
        [((6.0, 2.0), None), (torch.zeros(3, 2), None), ((float("nan"), 1.0), None), (None, 0.0), (None, float("nan"))],
    )
    def test_bounds_and_footprints_that_make_no_sense(self, model, rays, bounds, area):
        with pytest.raises(InputError):
            model(*rays, bounds, pixel_area=None if area is None else torch.full((40,), area))

    def test_directions_of_no_length(self, model, rays):
        with pytest.raises(InputError, match="longer than 0"):
            model(rays[0], torch.zeros_like(rays[1]))

    @pytest.mark.parametrize(
        "changes",
        [{"hash_table_size": 1000}, {"num_levels": 9, "base_resolution": 16, "max_resolution": 100}, {"max_steps": 0},
         {"features_per_level": 3}, {"color_loss_weight": 0.0}, {"pixel_width": 0.0}, {"num_importance": -1}],
    )  # fmt: skip
    def test_settings_that_make_no_sense(self, changes):
        with pytest.raises(InputError):
            PyNeRF(PyNeRFConfig(**changes))

    def test_without_importance_samples_are_even(self, small, rays):
        model = PyNeRF(replace(small, num_importance=0))
        assert model.field_model.config.sampling == "uniform"
        assert model(*rays)["rgb"].shape == (40, 3)

    def test_rendering_in_chunks_changes_nothing(self, model, rays, tiny_capture):
        whole = PyramidRenderer(model).render_rays(*rays, torch.tensor([[2.0, 6.0]]).expand(40, 2))
        parts = PyramidRenderer(model, chunk_size=7).render_rays(*rays, (2.0, 6.0))
        torch.testing.assert_close(whole["rgb"], parts["rgb"])
        cameras = PyNeRFDataset(tiny_capture).captures.cameras
        seen = PyramidRenderer(model).render_image(cameras, 1)
        assert (seen["rgb"].shape, seen["acc"].shape) == ((32, 32, 3), (32, 32))
        assert not seen["rgb"].requires_grad

    def test_the_encoding_has_all_levels(self):
        encoder = PyramidEncoder(num_levels=3, max_resolution=64, features_per_level=2, hash_table_size=2**10)
        features = encoder(torch.rand(5, 3))
        assert features.shape == (5, 6)
        features.sum().backward()
        assert encoder.table.grad is not None
        with pytest.raises(InputError, match="power of two"):
            PyramidEncoder(hash_table_size=1000)


class TestCheckpoints:
    def test_models_survive(self, model, small, tmp_path, rays):
        path = save_pyramid_model(model, small, tmp_path / "model.pth", epoch=3)
        other, config = load_pyramid_model(PyNeRF(small, seed=5), path)
        assert config == small
        torch.testing.assert_close(other(*rays)["rgb"], model(*rays)["rgb"])
        assert torch.load(path, weights_only=True)["step"] == 3

    def test_checkpoints_of_another_pyramid(self, model, small, tmp_path):
        path = save_pyramid_model(model, small, tmp_path / "model.pth")
        for changes in ({"num_levels": 3}, {"scale_factor": 1.5}, {"hidden_dim": 16}):
            with pytest.raises(FormatError, match="of another pyramid"):
                load_pyramid_model(PyNeRF(replace(small, **changes)), path)
        with pytest.raises(FormatError, match="of another region"):
            load_pyramid_model(PyNeRF(small, unbounded=True), path)

    def test_files_that_are_no_checkpoints(self, model, tmp_path):
        with pytest.raises(MissingFileError):
            load_pyramid_model(model, tmp_path / "none.pth")
        torch.save({"model_state_dict": {}}, tmp_path / "other.pth")
        with pytest.raises(FormatError, match="not a checkpoint of Voxfield"):
            load_pyramid_model(model, tmp_path / "other.pth")
        (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04")
        with pytest.raises(FormatError, match="cannot be read"):
            load_pyramid_model(model, tmp_path / "cut.pth")

    @pytest.mark.parametrize(("device", "error"), [(MISSING_DEVICE, UnavailableError), ("gpu", InputError)])
    def test_devices_that_are_not_here_are_not_the_files_fault(self, model, small, tmp_path, device, error):
        path = save_pyramid_model(model, small, tmp_path / "model.pth")
        with pytest.raises(error, match="device") as caught:
            load_pyramid_model(model, path, device=device)
        assert "Delete" not in str(caught.value)
        rgb, sigma, levels = [torch.rand(4, 3)] * 2, [torch.rand(4)] * 2, torch.rand(4)
        with pytest.raises(error, match="device"):
            interpolate_pyramid_outputs(rgb, sigma, levels, device=device)

    def test_weights_and_cameras_are_exported(self, model, small, tiny_capture, tmp_path):
        done = convert_to_nerfstudio_format(model, small, tmp_path / "out", data_dir=tiny_capture)
        assert done.tensors == len(read_weights(tmp_path / "out"))
        assert (tmp_path / "out" / "transforms.json").is_file()


class TestTraining:
    def test_data_sets_give_pictures_and_rays(self, tiny_capture):
        dark, light = PyNeRFDataset(tiny_capture), PyNeRFDataset(tiny_capture, white_background=True)
        assert len(dark) == 10
        picture = dark[-1]
        assert (picture["image"].shape, picture["rays_d"].shape) == ((32, 32, 3), (32, 32, 3))
        assert (picture["scale"], picture["weight"], picture["image_index"]) == (1, 1.0, 9)
        assert torch.equal(picture["pose"][3], torch.tensor([0.0, 0.0, 0.0, 1.0]))
        assert float(light[0]["image"][0, 0].min()) == 1.0
        assert float(dark[0]["image"][0, 0].max()) == 0.0
        coarse = MultiScaleDataset(tiny_capture, scales=[1, 4])[3]
        assert (coarse["image"].shape, coarse["scale"]) == ((8, 8, 3), 4)
        assert (coarse["image_index"], coarse["weight"]) == (1, 16.0)
        with pytest.raises(IndexError):
            dark[10]

    def test_training_moves_the_callers_model_and_resumes(self, small, model, tiny_capture, tmp_path):
        data = PyNeRFDataset(tiny_capture)
        before = model.field_model.field.tables[0].clone()
        trainer = PyNeRFTrainer(model, small, data, run_dir=tmp_path / "run")
        assert trainer.train() == {"outcome": "finished", "step": 12}
        assert not torch.equal(before, model.field_model.field.tables[0])
        with pytest.raises(InputError, match="holds checkpoints already"):
            trainer.train()
        longer = PyNeRFTrainer(model, replace(small, max_steps=15), data, run_dir=tmp_path / "run")
        assert longer.train(resume=True) == {"outcome": "finished", "step": 15}
        with pytest.raises(InputError, match="give a data set"):
            longer.evaluate()

    def test_models_must_fit_the_data(self, small, model, tiny_capture, tmp_path, captures):
        captures.write_llff(tmp_path / "llff", captures.some_cameras(centred=True))
        data = PyNeRFDataset(tmp_path / "llff")
        with pytest.raises(InputError, match="covers another region"):
            PyNeRFTrainer(model, small, data)
        fitting = PyNeRF.for_captures(small, data.captures)
        assert PyNeRFTrainer(fitting, small, data, run_dir=tmp_path / "run").train()["step"] == 12
        with pytest.raises(InputError, match="settings that the model was made with"):
            PyNeRFTrainer(model, replace(small, num_levels=3), PyNeRFDataset(tiny_capture))

    def test_schedules_must_fit_the_scales(self, small, model, tiny_capture):
        with pytest.raises(InputError, match="begins with scale 8, but the coarsest picture has 4"):
            MultiScaleTrainer(model, small, MultiScaleDataset(tiny_capture, scales=[1, 2, 4]))

    def test_metrics_are_ours(self):
        generator = torch.Generator().manual_seed(0)
        truth = torch.rand(16, 16, 3, generator=generator)
        seen = (truth + 0.1).clamp(0, 1)
        assert compute_psnr(seen, truth) == pytest.approx(psnr(seen, truth).item())
        assert compute_ssim(seen.numpy(), truth.numpy()) == pytest.approx(ssim(seen, truth).item())
        mask = torch.zeros(16, 16)
        mask[:4] = 1
        assert compute_psnr(seen, truth, mask) == pytest.approx(psnr(seen[:4], truth[:4]).item())
