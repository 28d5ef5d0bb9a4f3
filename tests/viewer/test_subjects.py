"""What is seen of a subject, and its pictures."""

import math
from dataclasses import replace

import pytest
import torch

from voxfield.colour import display
from voxfield.geometry.bounds import Bounds
from voxfield.viewer.subjects import FARTHEST, Picture, Shot, cropped, develop, look

NOTHING = torch.ones(3)


def picture(subject, shot: Shot, rows: int = 48) -> Picture:
    camera = shot.camera(rows)
    return develop(look(subject, camera.image_rays(0), shot, NOTHING), shot, camera)


def test_the_camera_spans_the_browsers_field_of_view(shot: Shot) -> None:
    camera = shot.camera(60)
    assert (int(camera.width[0]), int(camera.height[0])) == (120, 60)
    top = camera.rays(torch.tensor([0]), torch.tensor([[60.0, 0.0]])).directions[0]
    assert math.acos(float(top @ camera.forward[0])) == pytest.approx(shot.fov / 2, abs=1e-3)


@pytest.mark.parametrize("rows", [1, 2, 48])
@pytest.mark.parametrize("mode", ["colour", "depth", "opacity", "normals", "level"])
def test_every_mode_makes_a_picture_of_any_size(sphere, shot: Shot, mode, rows: int) -> None:
    made = picture(sphere, replace(shot, mode=mode), rows)
    assert made.rgb.shape == (rows, max(1, 2 * rows), 3)
    assert made.rgb.dtype == torch.uint8
    assert made.depth.shape == made.rgb.shape[:2]


def test_colour_opacity_and_depth_are_those_of_the_sphere(sphere, shot: Shot) -> None:
    made = picture(sphere, shot)
    assert made.rgb[24, 48].tolist() == pytest.approx([127, 26, 127], abs=6)
    assert made.rgb[0, 0].tolist() == [255, 255, 255]
    assert float(made.depth[24, 48]) == pytest.approx(3.0, abs=0.01)
    assert float(made.depth[0, 0]) == pytest.approx(FARTHEST)
    opacity = picture(sphere, replace(shot, mode="opacity")).rgb
    assert opacity[24, 48].tolist() == [255, 255, 255]
    assert opacity[0, 0].tolist() == [0, 0, 0]


def test_linear_light_is_exposed_and_mapped_as_the_shot_wants(sphere, shot: Shot) -> None:
    plain = picture(sphere, shot)
    # What is sRGB already is left alone.
    assert torch.equal(picture(sphere, replace(shot, exposure=3.0, tone_map="filmic")).rgb, plain.rgb)
    sphere.linear = True
    camera = shot.camera(48)
    light = sphere.look(camera.image_rays(0), "colour")["rgb"].reshape(48, 96, 3)
    for stops, tone_map in ((0.0, "none"), (-2.0, "none"), (3.0, "none"), (1.5, "filmic")):
        seen = picture(sphere, replace(shot, exposure=stops, tone_map=tone_map))
        expected = (display(light, stops=stops, tone_map=tone_map) * 255).round()
        assert float((seen.rgb.float() - expected).abs().max()) <= 1.0
        assert torch.equal(seen.depth, plain.depth)
    boxed = replace(shot, exposure=-2.0, crop=Bounds.from_cube(0.1, (0.0, -3.0, 0.0)))
    # The colour of nothing is the page's, not light.
    assert (picture(sphere, boxed).rgb == 255).all()


def test_normals_are_found_from_depth(sphere, shot: Shot) -> None:
    made = picture(sphere, replace(shot, mode="normals"), rows=192).rgb.float()
    # The point nearest the camera faces it (-y); the one on the right of the sphere faces right (+x).
    assert made[96, 192].tolist() == pytest.approx([127.5, 0, 127.5], abs=4)
    values = look(sphere, shot.camera(192).image_rays(0), shot, NOTHING)
    rays = shot.camera(192).image_rays(0)
    points = (rays.origins + values["depth"][:, None] * rays.directions).reshape(192, 384, 3)
    well_inside = (values["opacity"].reshape(192, 384) > 0) & ((points @ torch.tensor([0.0, -1.0, 0.0])) > 0.6)
    error = (made / 127.5 - 1 - points)[well_inside].norm(dim=-1)
    assert float(error.quantile(0.99)) < 0.05


def test_learnt_normals_are_shown_as_they_are(sphere, shot: Shot) -> None:
    values = look(sphere, shot.camera(8).image_rays(0), shot, NOTHING)
    values["normals"] = torch.tensor([0.0, 0.0, 1.0]).expand(128, 3)
    made = develop(values, replace(shot, mode="normals"), shot.camera(8))
    assert made.rgb[4, 8].tolist() == [128, 128, 255]
    assert made.rgb[0, 0].tolist() == [0, 0, 0]


def test_a_crop_box_shows_only_what_lies_in_it(sphere, shot: Shot) -> None:
    right = replace(shot, crop=Bounds(minimum=(0.0, -2.0, -2.0), maximum=(2.0, 2.0, 2.0)))
    made = picture(sphere, right)
    whole = picture(sphere, shot)
    assert (made.rgb[24, :44] == 255).all()
    assert torch.equal(made.rgb[:, 52:], whole.rgb[:, 52:])
    torch.testing.assert_close(made.depth[:, 52:], whole.depth[:, 52:])


def test_a_box_behind_the_matter_or_beside_it_shows_nothing(sphere, shot: Shot) -> None:
    for box in (Bounds.from_cube(0.5, (5.0, 0.0, 0.0)), Bounds.from_cube(0.1, (0.0, -3.0, 0.0))):
        assert (picture(sphere, replace(shot, crop=box)).rgb == 255).all()


def test_rays_begin_where_they_enter_the_box(shot: Shot) -> None:
    camera = shot.camera(31)
    rays = camera.image_rays(0)
    shifted, moved, leave = cropped(rays, Bounds.from_cube(1.0))
    hits = leave > 0
    assert 0 < int(hits.sum()) < len(rays)
    assert float((shifted.origins[hits].abs().amax(1) - 1).abs().max()) < 1e-5
    end = shifted.origins + leave[:, None] * shifted.directions
    assert float((end[hits].abs().amax(1) - 1).abs().max()) < 1e-5
    assert (moved[~hits] == 0).all()
    # From within the box they begin where they are.
    _, within, _ = cropped(rays, Bounds.from_cube(10.0))
    assert (within == 0).all()


def test_pixels_keep_their_width_in_the_middle_of_the_box(shot: Shot) -> None:
    rays = shot.camera(31).image_rays(0)
    shifted, moved, leave = cropped(rays, Bounds.from_cube(1.0))
    middle = leave / 2
    expected = (moved + middle) * rays.pixel_area.sqrt()
    hits = leave > 0.1
    torch.testing.assert_close((middle * shifted.pixel_area.sqrt())[hits], expected[hits])
