import json
import shutil

import pytest


@pytest.fixture
def truth(captures):
    return captures.some_cameras()


@pytest.fixture
def folder(tmp_path, captures, truth):
    captures.write_polycam(tmp_path, truth)
    return tmp_path


@pytest.fixture
def edit(folder, captures):
    file = folder / f"keyframes/corrected_cameras/{captures.polycam_name(4)}.json"
    return lambda change: captures.edit_json(file, change)


def test_rays_are_those_of_the_scan(folder, truth, read, same_rays, captures):
    capture = read(folder, "test")
    assert capture.names == tuple(f"keyframes/corrected_images/{captures.polycam_name(index)}.jpg" for index in (0, 8))
    same_rays(capture.cameras, truth, [0, 8])
    same_rays(read(folder / "keyframes").cameras, truth, range(1, 8))


def test_the_black_rim_of_corrected_pictures_is_ignored(folder, read):
    capture = read(folder, downscale=1)
    assert capture.has_masks
    mask = capture.images.mask(0)
    assert mask.shape == (32, 48)
    assert int(mask.sum()) == (32 - 30) * (48 - 30)
    assert bool(mask[15:17, 15:33].all())
    # A reduced pixel counts only if all it covers does: of the two rows left, neither reduced one is whole.
    assert not read(folder, downscale=2).images.mask(0).any()


def test_pictures_as_taken_have_no_rim(folder, truth, read, same_rays):
    shutil.rmtree(folder / "keyframes/corrected_cameras")
    capture = read(folder, "test")
    assert capture.names[0].startswith("keyframes/images/")
    assert not capture.has_masks
    same_rays(capture.cameras, truth, [0, 8])


def test_pictures_without_a_camera_are_skipped(folder, read, captures):
    (folder / f"keyframes/corrected_cameras/{captures.polycam_name(3)}.json").unlink()
    capture = read(folder)
    assert [item.path for item in capture.skipped] == [f"keyframes/corrected_images/{captures.polycam_name(3)}.jpg"]
    assert "no pose" in capture.skipped[0].reason


def test_no_camera_at_all_is_an_error(folder, message):
    for file in (folder / "keyframes/corrected_cameras").iterdir():
        file.unlink()
    assert "no picture with a pose" in message(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda camera: camera.pop("t_13"), "no t_13"),
        (lambda camera: camera.pop("fx"), "no fx"),
        (lambda camera: camera.update(fx=0), "expected fx to be a number above 0"),
        (lambda camera: camera.update(t_00=float("nan")), "expected t_00 to be a number"),
        (lambda camera: camera.update(t_00=3), "not rigid"),
        (lambda camera: camera.update(width=0.5), "expected width to be a whole number"),
        (lambda camera: camera.pop("height"), "no height"),
    ],
)
def test_malformed_cameras_are_errors(folder, edit, message, captures, change, words):
    edit(change)
    said = message(folder)
    assert words in said
    assert f"{captures.polycam_name(4)}.json" in said


def test_a_mirrored_pose_is_an_error(folder, edit, message):
    edit(lambda camera: camera.update({f"t_{row}0": -camera[f"t_{row}0"] for row in range(3)}))
    assert "it mirrors" in message(folder)


def test_a_camera_that_is_no_object_is_an_error(folder, message, captures):
    (folder / f"keyframes/corrected_cameras/{captures.polycam_name(4)}.json").write_text(json.dumps([1]))
    assert "expected a JSON object" in message(folder)
