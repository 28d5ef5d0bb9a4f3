import numpy as np
import pytest
import torch
from PIL import Image

from voxfield.errors import InputError
from voxfield.render.image import (
    SEPARATOR_PIXELS,
    colour_from_name,
    depth_colours,
    error_colours,
    normal_colours,
    panel,
    side_by_side,
    to_uint8,
    write_png,
)


def read(path):
    return np.array(Image.open(path))


@pytest.mark.parametrize("channels", [3, 4])
def test_png_round_trip(tmp_path, channels):
    image = torch.randint(0, 256, (7, 5, channels), dtype=torch.uint8)
    path = write_png(tmp_path / "deep" / "a.png", image)
    assert np.array_equal(read(path), image.numpy())
    write_png(path, image.float() / 255)
    assert np.array_equal(read(path), image.numpy())
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_floats_are_clamped_and_rounded():
    image = torch.tensor([-1.0, 0.0, 0.4999 / 255, 0.501 / 255, 1.0, 7.0, float("nan"), float("inf")])
    assert to_uint8(image).tolist() == [0, 0, 0, 1, 255, 255, 0, 255]
    assert to_uint8(image.double().requires_grad_()).tolist() == [0, 0, 0, 1, 255, 255, 0, 255]


def test_png_of_non_contiguous_images(tmp_path):
    image = torch.randint(0, 256, (3, 6, 4), dtype=torch.uint8).permute(2, 1, 0)
    assert np.array_equal(read(write_png(tmp_path / "a.png", image)), image.numpy())


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1), (4, 4, 5), (3, 4, 4, 3)])
def test_png_of_other_shapes(tmp_path, shape):
    with pytest.raises(InputError, match=r"expected shape \(H, W, 3\) or \(H, W, 4\)"):
        write_png(tmp_path / "a.png", torch.zeros(shape))
    assert [p.name for p in tmp_path.iterdir()] == []


def test_png_of_nothing_and_of_integers(tmp_path):
    with pytest.raises(InputError, match="at least one pixel"):
        write_png(tmp_path / "a.png", torch.zeros(0, 4, 3))
    with pytest.raises(InputError, match=r"expected float in \[0, 1\] or uint8, got torch.int64"):
        write_png(tmp_path / "a.png", torch.zeros(4, 4, 3, dtype=torch.int64))


def test_failed_write_keeps_the_old_picture(tmp_path, monkeypatch):
    image = torch.zeros(4, 4, 3)
    path = write_png(tmp_path / "a.png", image)

    def full_disk(self, stream, **options):
        stream.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_png(path, image + 1)
    assert np.array_equal(read(path), np.zeros((4, 4, 3)))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def luminance(colours):
    linear = torch.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    return linear @ torch.tensor([0.2126, 0.7152, 0.0722])


def test_nearer_is_lighter_evenly():
    depth = torch.linspace(1.0, 3.0, 101)[None]
    light = luminance(depth_colours(depth, near=1.0, far=3.0))[0]
    assert (light.diff() < 0).all()
    perceived = 116 * light ** (1 / 3) - 16  # CIE lightness
    assert perceived[0] > 85
    assert perceived[-1] < 25
    assert perceived.diff().abs().max() < 2.5 * perceived.diff().abs().mean()


def test_depth_scale_comes_from_what_is_there():
    depth = torch.full((24, 24), 50.0)
    depth[2:22, 2:22] = torch.linspace(2.0, 4.0, 400).view(20, 20)
    opacity = (depth < 10).float()
    colours = depth_colours(depth, opacity)
    assert (colours[0] == 0).all(), "nothing there is black"
    assert torch.allclose(colours[2, 2], depth_colours(torch.ones(1, 1), near=1, far=2)[0, 0], atol=0.05)
    # One outlier must not flatten the rest.
    outlier = depth.clone()
    outlier[2, 3] = 1e6
    assert torch.allclose(depth_colours(outlier, opacity)[9, 9], colours[9, 9], atol=0.1)


@pytest.mark.parametrize(
    "depth",
    [torch.full((3, 4), 2.0), torch.full((1, 1), float("nan")), torch.zeros(0, 5), torch.tensor([[1e30, -1e30]])],
)
def test_degenerate_depths_stay_in_range(depth):
    colours = depth_colours(depth)
    assert colours.shape == (*depth.shape, 3)
    assert torch.isfinite(colours).all()
    assert (colours >= 0).all()
    assert (colours <= 1).all()


def test_fully_transparent_depth_is_black():
    assert (depth_colours(torch.ones(3, 3), torch.zeros(3, 3)) == 0).all()


def test_bad_depth_arguments():
    with pytest.raises(InputError, match="expected near < far, got near 2 and far 1"):
        depth_colours(torch.ones(2, 2), near=2, far=1)
    with pytest.raises(InputError, match="opacity: expected shape"):
        depth_colours(torch.ones(2, 2), torch.ones(3, 3))
    with pytest.raises(InputError, match="depth: expected shape"):
        depth_colours(torch.ones(2, 2, 1))


def test_error_scale_is_fixed_and_rises():
    truth = torch.zeros(1, 6, 3)
    prediction = torch.tensor([0.0, 0.01, 0.05, 0.1, 0.2, 0.9])[None, :, None].expand(1, 6, 3)
    light = luminance(error_colours(prediction, truth))[0]
    assert light[0] == 0
    assert (light[:5].diff() > 0).all()
    assert light[5] == light[4]
    assert torch.isfinite(error_colours(prediction * float("nan"), truth)).all()


def test_pictures_beside_each_other():
    red, blue = torch.zeros(3, 2, 3), torch.zeros(3, 2, 3, dtype=torch.uint8)
    red[..., 0] = 1
    blue[..., 2] = 255
    row = side_by_side([red, blue])
    assert row.shape == (3, 4 + SEPARATOR_PIXELS, 3)
    assert row[0, 0].tolist() == [255, 0, 0]
    assert row[0, 2].tolist() == [128, 128, 128]
    assert row[2, -1].tolist() == [0, 0, 255]
    with pytest.raises(InputError, match="expected at least one image"):
        side_by_side([])
    with pytest.raises(InputError, match=r"images\[1\]: expected shape \(3, 2, 3\), got \(2, 3, 3\)"):
        side_by_side([red, red.transpose(0, 1)])


def test_panel_shows_truth_then_prediction():
    truth, rgb = torch.zeros(4, 5, 3), torch.ones(4, 5, 3)
    image = panel(truth, rgb, torch.ones(4, 5), torch.ones(4, 5))
    assert image.shape == (4, 4 * 5 + 3 * SEPARATOR_PIXELS, 3)
    assert image.dtype == torch.uint8
    assert (image[:, :5] == 0).all()
    assert (image[:, 5 + SEPARATOR_PIXELS : 10 + SEPARATOR_PIXELS] == 255).all()


@pytest.mark.parametrize(
    ("name", "colour"),
    [("white", (1, 1, 1)), ("Black", (0, 0, 0)), ("#ff0080", (1, 0, 128 / 255)), ("0.5, 0,1", (0.5, 0, 1))],
)
def test_colour_names(name, colour):
    assert colour_from_name(name) == pytest.approx(colour)


@pytest.mark.parametrize("name", ["", "mauve", "#fff", "1,2,3", "0,0", "a,b,c", "nan,0,0", "#gggggg"])
def test_unknown_colours(name):
    with pytest.raises(InputError, match="Colour: expected white, black, grey, #rrggbb or r,g,b"):
        colour_from_name(name)


def test_normals_are_coloured_by_where_they_point() -> None:
    normals = torch.tensor([[[1.0, 0, 0], [0, 0, -1.0]], [[0, 0, 0], [torch.nan, 0, 0]]])
    expected = torch.tensor([[[1.0, 0.5, 0.5], [0.5, 0.5, 0.0]], [[0, 0, 0], [0, 0, 0]]])
    torch.testing.assert_close(normal_colours(normals), expected)
    with pytest.raises(InputError, match="normals"):
        normal_colours(normals[0])
