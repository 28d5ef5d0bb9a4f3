import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from voxfield.data.capture import CaptureOptions, reduced_copy
from voxfield.data.capture_reading import read_capture
from voxfield.data.formats import colmap
from voxfield.data.formats.colmap_model import KINDS, read_images, read_points
from voxfield.data.synthetic import posed_images, write_nerfstudio
from voxfield.errors import FormatError, MissingFileError, VoxfieldError
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.camera import Cameras
from voxfield.geometry.distortion import Coefficients, distort, distort_angle
from voxfield.geometry.pose import SceneTransform
from voxfield.geometry.rotations import quaternions_from_rotations

COUNT = 10
NUMBERS = {kind.name: number for number, kind in KINDS.items()}
FLIP = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)


@dataclass
class Model:
    """A sparse model as COLMAP would write it."""

    cameras: dict[int, tuple[str, int, int, list[float]]]
    images: list[dict]
    points: list[tuple[int, list[float], float, list[tuple[int, int]]]] = field(default_factory=list)

    def write(self, folder: Path, *, text: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write = self._text if text else self._binary
        for name, content in write().items():
            (folder / name).write_bytes(content)

    def _binary(self) -> dict[str, bytes]:
        cameras = [struct.pack("<Q", len(self.cameras))]
        for number, (kind, width, height, values) in self.cameras.items():
            cameras.append(struct.pack(f"<IiQQ{len(values)}d", number, NUMBERS.get(kind, 77), width, height, *values))
        images = [struct.pack("<Q", len(self.images))]
        for image in self.images:
            images.append(struct.pack("<I7dI", image["id"], *image["q"], *image["t"], image["camera"]))
            images.append(image["name"].encode() + b"\0" + struct.pack("<Q", len(image["seen"])))
            images.extend(struct.pack("<2dq", x, y, point) for x, y, point in image["seen"])
        points = [struct.pack("<Q", len(self.points))]
        for number, place, error, track in self.points:
            points.append(struct.pack("<Q3d3BdQ", number, *place, 1, 2, 3, error, len(track)))
            points.extend(struct.pack("<II", *pair) for pair in track)
        return {"cameras.bin": b"".join(cameras), "images.bin": b"".join(images), "points3D.bin": b"".join(points)}

    def _text(self) -> dict[str, bytes]:
        cameras = ["# Camera list", ""]
        for number, (kind, width, height, values) in self.cameras.items():
            cameras.append(" ".join(map(str, [number, kind, width, height, *values])))
        images = ["# Image list with two lines of data per image:"]
        for image in self.images:
            images.append(" ".join(map(str, [image["id"], *image["q"], *image["t"], image["camera"], image["name"]])))
            images.append(" ".join(f"{x!r} {y!r} {point}" for x, y, point in image["seen"]))
        points = ["# 3D point list"]
        for number, place, error, track in self.points:
            flat = [value for pair in track for value in pair]
            points.append(" ".join(map(str, [number, *place, 1, 2, 3, error, *flat])))
        named = {"cameras.txt": cameras, "images.txt": images, "points3D.txt": points}
        return {name: ("\n".join(lines) + "\n").encode() for name, lines in named.items()}


def model_of(cameras: Cameras, names: list[str], *, points: int = 30) -> Model:
    """One camera for all pictures; every point is seen by every picture."""
    size = int(cameras.width[0]), int(cameras.height[0])
    lens = [*cameras.focal[0].tolist(), *cameras.principal[0].tolist()]
    places = torch.rand(points, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) - 0.5
    model = Model(cameras={1: ("PINHOLE", *size, lens)}, images=[])
    for index, name in enumerate(names):
        pose = cameras.camera_to_world[index].double()
        rotation = (pose[:, :3] * FLIP).T
        pixels, _ = cameras.project(torch.full((points,), index), places)
        model.images.append(
            {
                "id": index + 1,
                # Quaternions need not be unit.
                "q": (quaternions_from_rotations(rotation[None])[0] * 1.5).tolist(),
                "t": (-(rotation @ pose[:, 3])).tolist(),
                "camera": 1,
                "name": name,
                "seen": [(x, y, 100 + number) for number, (x, y) in enumerate(pixels.tolist())] + [(1.0, 2.0, -1)],
            }
        )
    for number, place in enumerate(places.tolist()):
        track = [(image["id"], number) for image in model.images]
        model.points.append((100 + number, place, 0.25 + number / 100, track))
    return model


@pytest.fixture(scope="module")
def written():
    return posed_images(count=COUNT, resolution=16)


@pytest.fixture
def model(written):
    return model_of(written.cameras, [f"{index:03d}.png" for index in range(COUNT)])


@pytest.fixture
def folder(tmp_path, model):
    model.write(tmp_path / "sparse/0")
    write_pictures(tmp_path / "images")
    return tmp_path


def write_pictures(folder, size=(16, 16), count=COUNT, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.new("RGB", size, (index, 0, 0)).save(folder / f"{index:03d}{suffix}")


def read(folder, split="train", **options):
    return read_capture(folder, split=split, options=CaptureOptions(**options))


def capture_of(folder):
    return colmap.read(folder, "train", CaptureOptions())


class TestModel:
    @pytest.mark.parametrize("text", [False, True])
    def test_poses_and_lens_become_ours(self, tmp_path, model, written, text):
        model.write(tmp_path / "sparse/0", text=text)
        write_pictures(tmp_path / "images")
        capture = read(tmp_path, "test", orientation="none", centre="none", auto_scale=False)
        assert capture.names == ("000.png", "008.png")
        expected = written.cameras[torch.tensor([0, 8])]
        torch.testing.assert_close(capture.cameras.camera_to_world, expected.camera_to_world, atol=1e-6, rtol=0)
        torch.testing.assert_close(capture.cameras.focal, expected.focal)
        assert capture.cameras.distortion is None

    def test_text_and_binary_say_the_same(self, tmp_path, model):
        model.write(tmp_path / "a/sparse/0")
        model.write(tmp_path / "b/sparse/0", text=True)
        for name in ("a", "b"):
            write_pictures(tmp_path / name / "images")
        one, other = capture_of(tmp_path / "a"), capture_of(tmp_path / "b")
        assert torch.equal(one.poses(), other.poses())
        assert torch.equal(one.points.positions, other.points.positions)
        assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(one.observed, other.observed, strict=True))
        assert [frame.intrinsics for frame in one.frames] == [frame.intrinsics for frame in other.frames]

    @pytest.mark.parametrize("place", colmap.MODEL_FOLDERS)
    def test_it_is_found_in_its_places(self, tmp_path, model, place):
        model.write(tmp_path / place)
        write_pictures(tmp_path / "images")
        assert read(tmp_path).source["model"] == place

    def test_a_transforms_json_comes_first_and_llff_after(self, folder, written):
        np.save(folder / "poses_bounds.npy", np.zeros((COUNT, 17)))
        assert read(folder).source["format"] == "colmap"
        write_nerfstudio(folder, written)
        assert read(folder).source["format"] == "nerfstudio"
        assert read(folder, format="colmap").source["format"] == "colmap"

    def test_pictures_are_taken_in_order_of_their_names(self, tmp_path, model):
        model.images.reverse()
        model.write(tmp_path / "sparse")
        write_pictures(tmp_path / "images")
        assert read(tmp_path, "test", eval_every=4).names == ("000.png", "004.png", "008.png")

    def test_names_may_hold_folders_and_spaces(self, tmp_path, model):
        for text in (True, False):
            model.images[0]["name"] = "left side/a 1.png"
            model.write(tmp_path / "sparse/0", text=text)
            write_pictures(tmp_path / "images")
            (tmp_path / "images/left side").mkdir(exist_ok=True)
            (tmp_path / "images/000.png").rename(tmp_path / "images/left side/a 1.png")
            assert "left side/a 1.png" in {frame.name for frame in capture_of(tmp_path).frames}
            assert not capture_of(tmp_path).missing

    def test_the_hash_follows_the_model(self, folder, model):
        before = read(folder).source["hash"]
        model.points.pop()
        model.write(folder / "sparse/0")
        assert read(folder).source["hash"] != before


LENSES = {
    "SIMPLE_PINHOLE": [20.0, 8.5, 7.5],
    "PINHOLE": [20.0, 21.0, 8.5, 7.5],
    "SIMPLE_RADIAL": [20.0, 8.5, 7.5, 0.05],
    "RADIAL": [20.0, 8.5, 7.5, 0.05, -0.02],
    "OPENCV": [20.0, 21.0, 8.5, 7.5, 0.05, -0.02, 0.001, -0.002],
    "FULL_OPENCV": [20.0, 21.0, 8.5, 7.5, 0.05, -0.02, 0.001, -0.002, 0.003, 0.0, 0.0, 0.0],
    "FULL_OPENCV, rational": [20.0, 21.0, 8.5, 7.5, 0.5, -2.6, 0.001, -0.002, 1.5, 0.38, -2.45, 1.44],
    "OPENCV_FISHEYE": [20.0, 21.0, 8.5, 7.5, 0.05, -0.02, 0.001, -0.002],
    "SIMPLE_RADIAL_FISHEYE": [20.0, 8.5, 7.5, 0.05],
    "RADIAL_FISHEYE": [20.0, 8.5, 7.5, 0.05, -0.02],
}


class TestLenses:
    @pytest.mark.parametrize("kind", LENSES)
    def test_every_model_that_can_be_represented_is(self, folder, model, kind):
        values = LENSES[kind]
        model.cameras[1] = (kind.split(",")[0], 16, 16, values)
        model.write(folder / "sparse/0")
        cameras = read(folder, orientation="none", centre="none", auto_scale=False).cameras
        # COLMAP's own formulas on the point (0.3, -0.2, 1) of its camera axes, which is (0.3, 0.2, -1) here.
        fx, fy, cx, cy, *k = values if len(values) in (4, 8, 12) and "SIMPLE" not in kind else [values[0], *values]
        k += [0.0] * (8 - len(k))
        x, y = torch.tensor([0.3]).double(), torch.tensor([-0.2]).double()
        zero = torch.zeros(1).double()
        if "FISHEYE" in kind:
            r = torch.hypot(x, y)
            lens = Coefficients(*(zero + value for value in k[:4]), zero, zero)
            u, v = (value / r * distort_angle(r.atan(), lens)[0] for value in (x, y))
        else:
            # k1 k2 p1 p2 k3 in the files, and the denominator's k4 k5 k6.
            lens = Coefficients(*(zero + value for value in (k[0], k[1], k[4], 0.0, k[2], k[3], *k[5:])))
            u, v = distort(x, y, lens)[:2]
        pose = cameras.camera_to_world[:1].double()
        point = pose[0, :, :3] @ torch.tensor([0.3, 0.2, -1.0]).double() + pose[0, :, 3]
        pixel, depth = cameras.project(torch.zeros(1, dtype=torch.int64), point[None])
        torch.testing.assert_close(pixel[0], torch.cat([fx * u + cx, fy * v + cy]), atol=1e-5, rtol=0)
        assert float(depth) == pytest.approx(1.0)
        assert cameras.model == ("fisheye" if "FISHEYE" in kind else "perspective")

    def test_one_rational_lens_among_others(self, folder, model):
        model.cameras[1] = ("FULL_OPENCV", 16, 16, LENSES["FULL_OPENCV, rational"])
        model.cameras[2] = ("OPENCV", 16, 16, LENSES["OPENCV"])
        model.images[1]["camera"] = 2
        model.write(folder / "sparse/0")
        distortion = read(folder).cameras.distortion
        assert distortion[0].tolist() == pytest.approx([0.05, -0.02, 0.0, 0.0, 0.001, -0.002, 0.0, 0.0, 0.0])
        assert distortion[1].tolist() == pytest.approx([0.5, -2.6, 1.5, 0.0, 0.001, -0.002, 0.38, -2.45, 1.44])

    @pytest.mark.parametrize("text", [False, True])
    @pytest.mark.parametrize(
        ("kind", "values", "words"),
        [
            ("EUCM", [20.0, 20.0, 8.0, 8.0, float("inf"), 1.0], "expected finite parameters"),
            ("PINHOLE", [20.0, -1.0, 8.0, 8.0], "focal lengths above 0"),
            ("PINHOLE", [20.0, float("nan"), 8.0, 8.0], "expected finite parameters"),
            ("PINHOLE", [20.0, 20.0, 1e300, 8.0], "expected finite parameters"),
            ("WIDE", [20.0], "unknown"),
        ],
    )
    def test_the_others_are_refused_by_name(self, tmp_path, model, kind, values, words, text):
        model.cameras[1] = (kind, 16, 16, values)
        model.write(tmp_path / "sparse/0", text=text)
        write_pictures(tmp_path / "images")
        with pytest.raises(FormatError) as caught:
            read(tmp_path)
        assert words in str(caught.value)
        assert str(tmp_path / "sparse/0/cameras") in str(caught.value)

    @pytest.mark.parametrize("size", [(0, 16), (16, 1 << 60)])
    def test_sizes_that_make_no_sense_are_refused(self, folder, model, size):
        model.cameras[1] = ("PINHOLE", *size, [20.0, 20.0, 8.0, 8.0])
        model.write(folder / "sparse/0")
        with pytest.raises(FormatError, match="expected a size of 1 to"):
            read(folder)

    def test_a_camera_no_picture_uses_does_not_matter(self, folder, model):
        model.cameras[2] = ("FOV", 16, 16, [20.0, 20.0, 8.0, 8.0, 9.0])
        model.write(folder / "sparse/0")
        assert len(read(folder)) == 8

    def test_a_fisheye_that_turns_back_within_the_picture_is_refused(self, folder, model):
        # r = t - t^3 / 3 ends at 2/3: 6.7 pixels at 10 pixels a radian, the border is 8 away.
        model.cameras[1] = ("SIMPLE_RADIAL_FISHEYE", 16, 16, [10.0, 8.0, 8.0, -1 / 3])
        model.write(folder / "sparse/0")
        with pytest.raises(FormatError, match=r"within 8 pixels of its axis, but its model turns back or ends at 7"):
            read(folder)

    def test_fisheye_corners_beyond_the_turn_are_masked(self, folder, model):
        model.cameras[1] = ("SIMPLE_RADIAL_FISHEYE", 16, 16, [13.5, 8.0, 8.0, -1 / 3])
        model.write(folder / "sparse/0")
        capture = read(folder)
        assert capture.has_masks
        mask = capture.images.mask(0)
        assert mask[8].all()
        assert not bool(mask[0, 0])
        # A disk of radius 9 about the middle, without what the four borders cut off.
        cut = 81 * np.arccos(8 / 9) - 8 * 17**0.5
        assert int(mask.sum()) == pytest.approx(np.pi * 81 - 4 * cut, rel=0.02)


class TestMasks:
    @pytest.mark.parametrize("name", ["000.png.png", "000.png", "left/a 1.jpg.png", "left/a 1.png"])
    def test_they_are_found_by_the_pictures_path(self, folder, model, name):
        if name.startswith("left"):
            model.images[0]["name"] = "left/a 1.jpg"
            model.write(folder / "sparse/0")
            (folder / "images/left").mkdir()
            Image.new("RGB", (16, 16)).save(folder / "images/left/a 1.jpg")
        write_mask(folder / "masks" / name)
        capture = read(folder, eval_every=20)
        masked = [index for index in range(len(capture)) if capture.images.mask(index) is not None]
        held_out = read(folder, "test", eval_every=20)
        masked_out = [index for index in range(len(held_out)) if held_out.images.mask(index) is not None]
        assert len(masked) + len(masked_out) == 1
        split, index = (capture, masked[0]) if masked else (held_out, masked_out[0])
        assert split.names[index] == model.images[0]["name"]
        kept = split.images.mask(index)
        assert kept[:, :8].all()
        assert not kept[:, 8:].any()

    def test_colmaps_own_name_comes_first(self, folder):
        write_mask(folder / "masks/000.png.png", left=3)
        write_mask(folder / "masks/000.png", left=5)
        assert int(read(folder, "test").images.mask(0).sum()) == 3 * 16

    def test_they_are_reduced_with_their_pictures(self, folder):
        write_mask(folder / "masks/000.png", left=9)
        kept = read(folder, "test", downscale=2).images.mask(0)
        assert kept[:, :4].all()
        assert not kept[:, 4:].any()
        write_mask(folder / "masks_2/000.png", left=2, size=(8, 8))
        assert int(read(folder, "test", downscale=2).images.mask(0).sum()) == 2 * 8

    def test_reduced_ones_may_lie_in_subfolders(self, tmp_path):
        write_mask(tmp_path / "masks_2/left/a.jpg.png")
        assert reduced_copy(tmp_path / "masks/left/a.jpg.png", 2) == tmp_path / "masks_2/left/a.jpg.png"
        assert reduced_copy(tmp_path / "masks/left/b.jpg.png", 2) is None

    def test_one_of_another_size_skips_its_picture(self, folder):
        write_mask(folder / "masks/001.png", size=(5, 5))
        skipped = read(folder).skipped
        assert [item.path for item in skipped] == ["001.png"]
        assert "Make the mask again" in skipped[0].reason

    def test_masks_of_no_picture_are_an_error(self, folder):
        write_mask(folder / "masks/mask_000.png")
        with pytest.raises(FormatError, match=r"named after their pictures \(000.png.png or 000.png\).*mask_000.png"):
            read(folder)
        (folder / "masks/mask_000.png").rename(folder / "masks/notes.txt")
        assert not read(folder).has_masks

    def test_links_never_lead_outside(self, folder, tmp_path_factory):
        elsewhere = tmp_path_factory.mktemp("elsewhere") / "mask.png"
        write_mask(elsewhere)
        (folder / "masks").mkdir()
        (folder / "masks/000.png").symlink_to(elsewhere)
        with pytest.raises(FormatError, match="leads outside the data folder"):
            read(folder)
        assert read(folder, "test", allow_outside=True).has_masks

    @pytest.mark.parametrize("name", [".", "/", "..", "a/", "x" * 300])
    def test_odd_names_of_pictures_find_none(self, folder, model, name):
        write_mask(folder / "masks/000.png")
        model.images[1]["name"] = name
        model.write(folder / "sparse/0")
        assert [item.path for item in read(folder).skipped] == [name]


def write_mask(path, *, left=8, size=(16, 16)):
    """White ``left`` of a column, black right of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, min(left, size[0]), size[1]))
    mask.save(path)


class TestPoints:
    def test_points_come_with_errors_and_tracks(self, folder, model):
        model.points[3] = (*model.points[3][:2], -1.0, model.points[3][3])
        model.write(folder / "sparse/0")
        points = capture_of(folder).points
        assert torch.equal(points.positions, torch.tensor([point[1] for point in model.points], dtype=torch.float64))
        assert points.track_lengths.tolist() == [COUNT] * 30
        assert float(points.errors[0]) == 0.25
        assert bool(points.errors[3].isnan())

    def test_what_a_picture_saw_has_its_pixel_and_depth(self, folder, written):
        capture = capture_of(folder)
        for index in (0, 7):
            seen = capture.observed[index]
            pixels, depth = written.cameras.project(torch.full((30,), index), capture.points.positions)
            torch.testing.assert_close(seen.pixels, pixels.float(), atol=1e-4, rtol=0)
            torch.testing.assert_close(seen.depth, depth.float(), atol=1e-5, rtol=0)
            assert torch.equal(seen.errors, capture.points.errors)

    def test_what_a_picture_saw_follows_the_world_and_the_resolution(self, folder, model):
        images, points = read(folder, downscale=2), capture_of(folder).points
        assert len(images.observed) == len(images) == 8
        world = images.transform.apply_points(points.positions)
        for index in (0, 7):
            pixels, depth = images.cameras.project(torch.full((30,), index), world)
            torch.testing.assert_close(images.observed[index].pixels, pixels.float(), atol=1e-4, rtol=0)
            torch.testing.assert_close(images.observed[index].depth, depth.float(), atol=1e-5, rtol=0)

    def test_points_nobody_saw_or_that_lie_nowhere_are_counted(self, folder, model):
        model.points[0] = (*model.points[0][:3], [])
        model.points[1] = (model.points[1][0], [float("nan"), 0.0, 0.0], *model.points[1][2:])
        model.points[2] = (model.points[2][0], [0.0, 1e30, 0.0], *model.points[2][2:])
        model.write(folder / "sparse/0")
        capture = capture_of(folder)
        assert (capture.source["points"], capture.source["points_left_out"]) == (27, 3)
        assert len(capture.observed[0]) == 27

    def test_keypoints_of_unknown_points_and_points_behind_are_not_seen(self, folder, model):
        model.images[0]["seen"] += [(3.0, 4.0, 999), (float("nan"), 4.0, 101), (1e300, 4.0, 101)]
        # A point behind the first camera: its centre moved backwards along its axis.
        pose = read(folder, "test", orientation="none", centre="none", auto_scale=False).cameras.camera_to_world[0]
        model.points[0] = (100, (pose[:, 3] + pose[:, 2]).tolist(), *model.points[0][2:])
        model.write(folder / "sparse/0")
        assert len(capture_of(folder).observed[0]) == 29

    def test_they_may_be_absent_or_none(self, folder, model):
        model.points.clear()
        model.write(folder / "sparse/0")
        capture = capture_of(folder)
        assert len(capture.points) == 0
        assert all(len(seen) == 0 for seen in capture.observed)
        (folder / "sparse/0/points3D.bin").unlink()
        capture = capture_of(folder)
        assert capture.points is None
        assert capture.observed is None
        with pytest.raises(FormatError, match=r"no sparse points.*capture\.region=format"):
            read(folder, region="points")

    def test_they_bound_the_region_when_asked(self, folder):
        assert read(folder).bounds == Bounds.from_cube(1.0)
        capture = read(folder, region="points")
        points = capture_of(folder).points
        assert capture.bounds == points.bounds(capture.transform)

    def test_robust_bounds_leave_far_points_and_pairs_out(self, tmp_path, written):
        model = model_of(written.cameras, ["a.png"], points=1000)
        model.points = [(*point[:3], [(1, 0)] * 3) for point in model.points]
        model.points[5] = (105, [1e6, 1e6, 1e6], 0.1, [(1, 0)] * 3)
        for number in range(100):
            model.points[10 + number] = (110 + number, [50.0, 0.0, 0.0], 0.1, [(1, 0)] * 2)
        model.write(tmp_path / "sparse/0")
        (tmp_path / "images").mkdir()
        bounds = capture_of(tmp_path).points.bounds(SceneTransform.identity())
        assert max(bounds.maximum) < 0.5
        assert min(bounds.maximum) > 0.48
        assert max(bounds.minimum) < -0.48

    def test_cameras_that_do_not_look_inward_are_bounded_by_points(self, tmp_path):
        model = forward_model()
        model.write(tmp_path / "sparse/0")
        write_pictures(tmp_path / "images")
        capture, images = capture_of(tmp_path), read(tmp_path)
        assert capture.forward_facing
        assert images.bounds == capture.points.bounds(images.transform)
        assert read(tmp_path, region="format").bounds == Bounds.from_cube(1.0)

    def test_cameras_around_a_subject_do_not_face_forward(self, folder):
        assert not capture_of(folder).forward_facing


def forward_model() -> Model:
    """Cameras side by side that look along COLMAP's +Z at 200 points, 5 and more away."""
    places = torch.rand(200, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + torch.tensor(
        [0, 0, 5]
    )
    model = Model(cameras={1: ("PINHOLE", 16, 16, [20.0, 20.0, 8.0, 8.0])}, images=[])
    for index in range(COUNT):
        seen = [(1.0, 1.0, number) for number in range(200)]
        model.images.append(
            {
                "id": index + 1,
                "q": [1.0, 0, 0, 0],
                "t": [-index / 10, 0, 0],
                "camera": 1,
                "name": f"{index:03d}.png",
                "seen": seen,
            }
        )
    model.points = [(number, place, 0.5, [(1, 0)] * 3) for number, place in enumerate(places.tolist())]
    return model


class TestSkipped:
    @pytest.mark.parametrize("text", [False, True])
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"camera": 9}, "its camera 9 is not in the model"),
            ({"t": [0.0, float("nan"), 0.0]}, "its pose holds NaN"),
            ({"q": [float("inf"), 0.0, 0.0, 0.0]}, "its pose holds NaN, infinite"),
            ({"t": [0.0, 1e12, 0.0]}, "its pose holds NaN, infinite or huge"),
            ({"q": [0.0, 0.0, 0.0, 0.0]}, "zero quaternion"),
        ],
    )
    def test_pictures_without_camera_or_pose_are_listed(self, tmp_path, model, change, reason, text):
        model.images[3].update(change)
        model.write(tmp_path / "sparse/0", text=text)
        write_pictures(tmp_path / "images")
        capture = read(tmp_path)
        assert [item.path for item in capture.skipped] == [model.images[3]["name"]]
        assert reason in capture.skipped[0].reason
        assert len(capture) == 7

    def test_a_picture_listed_again_is_skipped_and_listed(self, tmp_path, model):
        model.images[3].update({key: model.images[2][key] for key in ("name", "q", "t", "camera")})
        model.write(tmp_path / "sparse/0", text=False)
        write_pictures(tmp_path / "images")
        (again,) = read(tmp_path).skipped
        assert (again.path, again.reason.endswith("lists it twice. Remove one.")) == ("002.png", True)

    def test_one_picture_with_two_poses_is_an_error(self, tmp_path, model):
        model.images[3]["name"] = "002.png"
        model.write(tmp_path / "sparse/0", text=True)
        write_pictures(tmp_path / "images")
        with pytest.raises(FormatError, match=r"lists 002\.png twice, with different poses\. Keep the right one"):
            read(tmp_path)

    def test_pictures_without_files_are_listed(self, folder):
        for index in (0, 5):
            (folder / "images" / f"{index:03d}.png").unlink()
        capture = read(folder, "test")
        assert [item.path for item in capture.skipped] == ["000.png", "005.png"]
        assert "no such file" in capture.skipped[0].reason
        assert capture.names == ("001.png",)

    def test_no_picture_with_a_pose_is_an_error(self, folder, model):
        for image in model.images:
            image["camera"] = 7
        model.write(folder / "sparse/0")
        with pytest.raises(FormatError, match=r"no picture with a pose in it.*000\.png: its camera 7"):
            read(folder)
        Model(cameras=model.cameras, images=[]).write(folder / "sparse/0")
        with pytest.raises(FormatError, match=r"no picture with a pose in it\. Export the capture again"):
            read(folder)

    def test_no_pictures_at_all_is_an_error(self, folder):
        (folder / "images").rename(folder / "photos")
        with pytest.raises(FormatError, match=r"none of the 10 pictures of the train split can be read"):
            read(folder, format="colmap")
        with pytest.raises(FormatError, match=r"sparse/0 beside images \(COLMAP\)"):
            read(folder)

    def test_reduced_pictures_stand_in(self, folder):
        (folder / "images").rename(folder / "full")
        write_pictures(folder / "images_2", size=(8, 8), suffix=".jpg")
        (folder / "images_2/003.jpg").unlink()
        capture = read(folder)
        assert capture.source["downscale"] == 2
        assert capture.images.shape(0) == (8, 8, 3)
        assert [item.path for item in capture.skipped] == ["003.png"]

    def test_reduced_pictures_in_subfolders_are_found(self, tmp_path, model):
        for image in model.images:
            image["name"] = "left/" + image["name"]
        model.write(tmp_path / "sparse/0")
        write_pictures(tmp_path / "images/left")
        write_pictures(tmp_path / "images_2/left", size=(8, 8), suffix=".jpg")
        capture = read(tmp_path, downscale=2)
        assert capture.images.read(2).shape == (8, 8, 3)
        assert "images_2" in str(capture.images._pictures[0].path)


class TestDamage:
    @pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
    def test_files_cut_anywhere_are_errors(self, folder, model, name):
        model.images = [{**image, "seen": image["seen"][:2]} for image in model.images[:3]]
        model.points = model.points[:3]
        model.write(folder / "sparse/0")
        file = folder / "sparse/0" / name
        whole = file.read_bytes()
        for length in range(0, len(whole), 3):
            file.write_bytes(whole[:length])
            with pytest.raises(FormatError) as caught:
                capture_of(folder)
            assert str(file) in str(caught.value)

    @pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
    def test_counts_beyond_the_file_allocate_nothing(self, folder, name):
        file = folder / "sparse/0" / name
        file.write_bytes(struct.pack("<Q", 1 << 60) + file.read_bytes()[8:])
        with pytest.raises(
            FormatError, match=rf"{name}: says that {1 << 60} \w+ follow at byte 8, but holds \d+ bytes"
        ):
            capture_of(folder)

    def test_inner_counts_beyond_the_file_allocate_nothing(self, folder):
        file = folder / "sparse/0/images.bin"
        content = file.read_bytes()
        place = content.index(b"000.png\0") + 8
        file.write_bytes(content[:place] + struct.pack("<Q", 1 << 62) + content[place + 8 :])
        with pytest.raises(FormatError, match="keypoints follow"):
            capture_of(folder)
        file.write_bytes(content)
        file = folder / "sparse/0/points3D.bin"
        content = file.read_bytes()
        # Behind the count: an id, three coordinates, a colour, an error.
        place = 8 + 8 + 24 + 3 + 8
        file.write_bytes(content[:place] + struct.pack("<Q", (1 << 64) - 1) + content[place + 8 :])
        with pytest.raises(FormatError, match="observations follow"):
            capture_of(folder)

    def test_names_that_do_not_end_or_are_not_text(self, folder):
        file = folder / "sparse/0/images.bin"
        content = file.read_bytes()
        file.write_bytes(content.replace(b"000.png\0", b"0\xff0.png\0"))
        with pytest.raises(FormatError, match="is not UTF-8"):
            capture_of(folder)
        file.write_bytes(content.replace(b"\0", b"x").replace(b"x" * 7, b"\0" * 7, 1))
        with pytest.raises(FormatError):
            capture_of(folder)

    def test_no_damage_gets_past_the_reader(self, folder):
        generator = np.random.default_rng(3)
        for name in ("cameras.bin", "images.bin", "points3D.bin"):
            file = folder / "sparse/0" / name
            whole = file.read_bytes()
            for _ in range(15):
                damaged = bytearray(whole)
                for place in generator.integers(0, len(damaged), 4):
                    damaged[place] = generator.integers(0, 256)
                file.write_bytes(bytes(damaged))
                try:
                    capture = capture_of(folder)
                except VoxfieldError:
                    continue
                assert bool(capture.poses().isfinite().all())
                assert bool(capture.points.positions.isfinite().all())
            file.write_bytes(whole)

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("cameras.txt", "1 PINHOLE 16 16 20 20 8\n", "line 1: expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS"),
            ("cameras.txt", "1 PINHOLE 16 16 20 20 8 x\n", "line 1: expected CAMERA_ID"),
            ("cameras.txt", "# c\n1.5 PINHOLE 16 16 20 20 8 8\n", "line 2: expected CAMERA_ID"),
            ("cameras.txt", "1\n", "line 1: expected CAMERA_ID"),
            ("images.txt", "1 1 0 0 0 0 0 0 1\n\n", "line 1: expected IMAGE_ID"),
            ("images.txt", "1 1 0 0 0 0 0 zero 1 a.png\n\n", "line 1: expected IMAGE_ID"),
            ("images.txt", "1 1 0 0 0 0 0 0 1 a.png\n1 2 3 4\n", "line 2: expected triples"),
            ("images.txt", "1 1 0 0 0 0 0 0 1 a.png\n1 2 9999999999999999999999\n", "beyond 64 bits"),
            ("points3D.txt", "1 0 0 0 1 2 3\n", "line 1: expected POINT3D_ID"),
            ("points3D.txt", "1 0 0 0 1 2 3 0.5 1\n", "line 1: expected POINT3D_ID"),
            ("points3D.txt", "one 0 0 0 1 2 3 0.5 1 2\n", "line 1: expected POINT3D_ID"),
            ("points3D.txt", b"\xff\xfe", "not a text file"),
        ],
    )
    def test_text_that_makes_no_sense(self, tmp_path, model, name, content, words):
        model.write(tmp_path / "sparse/0", text=True)
        file = tmp_path / "sparse/0" / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(FormatError) as caught:
            capture_of(tmp_path)
        assert str(file) in str(caught.value)
        assert words in str(caught.value)

    def test_pictures_without_keypoints_keep_the_lines_in_step(self, tmp_path, model):
        model.images[2]["seen"] = []
        model.images[-1]["seen"] = []
        model.write(tmp_path / "sparse/0", text=True)
        file = tmp_path / "sparse/0/images.txt"
        # Some writers leave the very last blank line out.
        file.write_text(file.read_text().rstrip("\n"))
        assert [len(image.points) for image in read_images(file)] == [31, 31, 0, 31, 31, 31, 31, 31, 31, 0]

    def test_paths_that_leave_the_folder_are_refused(self, folder, model):
        model.images[0]["name"] = "../../outside.png"
        model.write(folder / "sparse/0")
        with pytest.raises(FormatError, match=r"leads outside the data folder"):
            read(folder)

    def test_a_folder_without_a_model_says_what_was_looked_for(self, tmp_path):
        with pytest.raises(MissingFileError, match=r"no COLMAP model.*sparse/0"):
            read(tmp_path, format="colmap")


@pytest.mark.slow
def test_cup(shared_data):
    folder = shared_data / "images/colmap_cup77"
    capture = capture_of(folder)
    assert (len(capture.frames), len(capture.chosen), len(capture.points)) == (77, 67, 9262)
    assert not capture.missing
    assert capture.observed is not None
    images = read(folder, "test", orientation="none", centre="none", auto_scale=False)
    files = {image.name: image for image in read_images(folder / "sparse/0/images.bin")}
    points = read_points(folder / "sparse/0/points3D.bin")
    place = {number: index for index, number in enumerate(points.ids.tolist())}
    misses = []
    for index, name in enumerate(images.names):
        image = files[name]
        seen = image.points >= 0
        positions = torch.from_numpy(points.positions[[place[number] for number in image.points[seen].tolist()]])
        pixels, _ = images.cameras.project(torch.full((len(positions),), index), positions)
        misses.append((pixels - torch.from_numpy(image.pixels[seen])).norm(dim=-1))
    # COLMAP itself reports 0.63 pixels.
    assert float(torch.cat(misses).mean()) == pytest.approx(0.63, abs=0.05)
