import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from voxfield.data.capture import CaptureOptions
from voxfield.data.capture_reading import read_capture
from voxfield.data.formats import llff
from voxfield.data.synthetic import posed_images, write_nerfstudio
from voxfield.errors import FormatError, MissingFileError, VoxfieldError
from voxfield.geometry.pose import focus

COUNT = 10
SIZE = (16, 12)


def table_of(poses: torch.Tensor, focal: float = 20.0, bounds: tuple[float, float] = (1.0, 8.0)) -> np.ndarray:
    """As LLFF writes it: down, right, backwards, centre, and height, width, focal length."""
    right, up, back, centre = poses.double().unbind(-1)
    lens = torch.tensor([SIZE[1], SIZE[0], focal], dtype=torch.float64).expand(len(poses), 3)
    matrices = torch.stack([-up, right, back, centre, lens], dim=-1)
    return np.concatenate([matrices.reshape(len(poses), 15).numpy(), np.tile(bounds, (len(poses), 1))], axis=1)


def facing(count: int = COUNT) -> torch.Tensor:
    """Cameras in a row that look along +Y."""
    across = torch.linspace(-1.0, 1.0, count)
    pose = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [0.0, 1.0, 0.0, 0.0]]).repeat(count, 1, 1)
    pose[:, 0, 3] = across
    return pose


def write_pictures(folder, count=COUNT, size=SIZE, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.new("RGB", size, (index, 0, 0)).save(folder / f"{index:03d}{suffix}")


@pytest.fixture
def folder(tmp_path):
    write_pictures(tmp_path / "images")
    np.save(tmp_path / "poses_bounds.npy", table_of(facing()))
    return tmp_path


def read(folder, split="train", **options):
    return read_capture(folder, split=split, options=CaptureOptions(**options))


def test_every_eighth_is_held_out(folder):
    assert read(folder, "test").names == ("000.png", "008.png")
    assert len(read(folder)) == 8
    assert read(folder, "test", eval_every=5).names == ("000.png", "005.png")
    assert read(folder).source["format"] == "llff"


def test_axes_and_lens_become_ours(folder):
    capture = read(folder, "test", orientation="none", centre="none", auto_scale=False)
    torch.testing.assert_close(capture.cameras.camera_to_world, facing()[[0, 8]], atol=1e-6, rtol=0)
    assert capture.cameras.focal.tolist() == [[20.0, 20.0]] * 2
    assert capture.cameras.principal.tolist() == [[8.0, 6.0]] * 2
    torch.testing.assert_close(capture.cameras.forward, torch.tensor([[0.0, 1.0, 0.0]]).repeat(2, 1))


def test_rows_belong_to_pictures_by_name(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("b.JPG", "a.png", "10.jpeg", "9.jpg", "notes.txt"):
        if name.endswith("txt"):
            (tmp_path / "images" / name).write_text("x")
        else:
            Image.new("RGB", SIZE).save(tmp_path / "images" / name)
    np.save(tmp_path / "poses_bounds.npy", table_of(facing(4)))
    capture = llff.read(tmp_path, "train", CaptureOptions())
    assert [frame.name for frame in capture.frames] == ["10.jpeg", "9.jpg", "a.png", "b.JPG"]
    torch.testing.assert_close(capture.poses().float(), facing(4))


def test_a_forward_facing_scene_is_told_and_bounded_by_what_is_seen(folder):
    capture = llff.read(folder, "train", CaptureOptions())
    assert capture.forward_facing
    # From x = -1 - 8 * 8/20 to 1 + 8 * 8/20; from y = 1 to 8; up and down 8 * 6/20.
    assert capture.bounds.minimum == pytest.approx((-4.2, 1.0, -2.4))
    assert capture.bounds.maximum == pytest.approx((4.2, 8.0, 2.4))
    images = read(folder)
    assert images.unbounded
    corners = images.transform.apply_points(capture.bounds.corners())
    assert images.bounds.minimum == pytest.approx(corners.amin(0).tolist())


def test_the_near_bound_follows_the_world(folder):
    np.save(folder / "poses_bounds.npy", table_of(facing() * torch.tensor([1.0, 1.0, 1.0, 4.0])))
    capture = read(folder)
    assert capture.transform.scale == pytest.approx(0.25)
    assert capture.near == pytest.approx(llff.NEARER * 1.0 * 0.25)
    assert read(folder, near=0.3).near == 0.3


def test_cameras_around_a_subject_do_not_face_forward(tmp_path):
    write_pictures(tmp_path / "images")
    written = posed_images(count=COUNT, resolution=8).cameras
    np.save(tmp_path / "poses_bounds.npy", table_of(written.camera_to_world))
    capture = llff.read(tmp_path, "train", CaptureOptions())
    assert not capture.forward_facing
    assert read(tmp_path).bounds.maximum == (1.0, 1.0, 1.0)


class TestReducedPictures:
    @pytest.fixture
    def reduced(self, folder):
        (folder / "images").rename(folder / "full")
        write_pictures(folder / "images_4", size=(4, 3))
        write_pictures(folder / "images_2", size=(8, 6), suffix=".jpg")
        return folder

    def test_the_largest_there_is_stands_in(self, reduced):
        capture = read(reduced, "test")
        assert capture.source["downscale"] == 2
        assert capture.images.shape(0) == (6, 8, 3)
        assert capture.cameras.focal.tolist() == [[10.0, 10.0]] * 2
        assert capture.cameras.principal.tolist() == [[4.0, 3.0]] * 2

    def test_one_may_be_chosen(self, reduced):
        assert read(reduced, downscale=4).images.shape(0) == (3, 4, 3)

    def test_an_empty_folder_of_full_pictures_does_not_count(self, reduced):
        (reduced / "images").mkdir()
        assert read(reduced).source["downscale"] == 2

    def test_what_is_not_there_is_refused(self, reduced):
        with pytest.raises(FormatError, match="only reduced by 2 or 4, not by 8"):
            read(reduced, downscale=8)
        with pytest.raises(FormatError, match="only reduced by 2 or 4, not by 1"):
            read(reduced, downscale=1)

    def test_folders_of_another_factor_are_refused(self, folder):
        (folder / "images").rename(folder / "images_8")
        with pytest.raises(FormatError, match=r"none of the 8 pictures.*is 16x12 pixels, but its frame says 2x1\.5"):
            read(folder)


def array_bytes(array: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def changed(row=3, column=None, value=np.nan):
    table = table_of(facing())
    table[row, slice(None) if column is None else column] = value
    return table


GOOD = array_bytes(table_of(facing()))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a .npy file"),
        (b"PK\x03\x04 an archive", "not a .npy file"),
        (GOOD[:60], "not a .npy file"),
        (GOOD[:-1], "says that 10 poses follow, but holds 1359 bytes"),
        (GOOD.replace(b"(10, 17)", b"(99999999999, 17)".ljust(8)), "poses follow, but holds"),
        (GOOD.replace(b"(10, 17)", b"(-1, 17)"), "says that -1 poses follow"),
        (array_bytes(np.zeros((0, 17))), "says that 0 poses follow"),
        (array_bytes(np.zeros((10, 15))), "expected an N x 17 array of numbers, got (10, 15) of float64"),
        (array_bytes(np.zeros(17)), "expected an N x 17 array"),
        (array_bytes(np.full((10, 17), {}), allow_pickle=True), "of object"),
        (array_bytes(np.zeros((10, 17), dtype=complex)), "of complex128"),
        (array_bytes(changed()), "the row of 003.png holds NaN"),
        (array_bytes(changed(value=np.inf, column=3)), "the row of 003.png holds NaN, infinite"),
        (array_bytes(changed(value=1e12, column=3)), "huge numbers"),
        (array_bytes(changed(value=0.0, column=15)), "0 < near < far for 003.png, got 0 and 8"),
        (array_bytes(changed(value=0.5, column=16)), "0 < near < far for 003.png, got 1 and 0.5"),
        (array_bytes(changed(value=-20.0, column=14)), "height, width and focal length in pixels for 003.png"),
        (array_bytes(changed(value=0.0, column=4)), "height, width and focal length in pixels for 003.png"),
        (array_bytes(changed(value=3.0, column=0)), "003.png: the pose (axes down, right, backwards) is not"),
        (
            array_bytes(table_of(facing())[:, [1, 0, *range(2, 17)]]),
            "000.png: the pose (axes down",
        ),
        (array_bytes(table_of(facing(9))), "holds 9 poses, but"),
    ],
)
def test_files_that_make_no_sense(folder, content, words):
    (folder / "poses_bounds.npy").write_bytes(content)
    with pytest.raises(FormatError) as caught:
        read(folder)
    assert str(folder / "poses_bounds.npy") in str(caught.value)
    assert words in str(caught.value)
    assert str(caught.value).count("\n") <= 1


def test_arrays_stored_by_columns_or_in_single_precision_are_read(folder):
    expected = read(folder).cameras.camera_to_world
    for table in (np.asfortranarray(table_of(facing())), table_of(facing()).astype(">f4")):
        np.save(folder / "poses_bounds.npy", table)
        torch.testing.assert_close(read(folder).cameras.camera_to_world, expected)


def test_no_damage_gets_past_the_reader(folder):
    generator = np.random.default_rng(1)
    for _ in range(60):
        damaged = bytearray(GOOD)
        for place in generator.integers(0, len(damaged), 3):
            damaged[place] = generator.integers(0, 256)
        (folder / "poses_bounds.npy").write_bytes(bytes(damaged))
        try:
            capture = llff.read(folder, "train", CaptureOptions())
        except VoxfieldError:
            continue
        assert bool(capture.poses().isfinite().all())


def test_missing_pieces_are_named(folder):
    (folder / "images").rename(folder / "photos")
    with pytest.raises(MissingFileError, match="images: no such folder"):
        read(folder)
    with pytest.raises(MissingFileError, match=r"poses_bounds\.npy: no such file"):
        read(folder / "photos", format="llff")


def test_a_transforms_json_comes_first(folder):
    write_nerfstudio(folder, replace(posed_images(count=9, resolution=8)))
    assert read(folder).source["format"] == "nerfstudio"


@pytest.mark.slow
def test_fern(shared_data):
    folder = shared_data / "images/nerf_llff_data/fern"
    capture = llff.read(folder, "train", CaptureOptions())
    bounds = np.load(folder / "poses_bounds.npy", allow_pickle=False)[:, 15:]
    assert capture.forward_facing
    assert (len(read(folder)), len(read(folder, "test"))) == (17, 3)
    assert read(folder).images.shape(0) == (378, 504, 3)
    # All cameras look at one place within their bounds.
    looked_at = focus(capture.poses()).point
    ahead = ((looked_at - capture.poses()[:, :, 3]) * -capture.poses()[:, :, 2]).sum(-1)
    assert bool((ahead > bounds[:, 0].max()).all())
    assert bool((ahead < bounds[:, 1].min()).all())
