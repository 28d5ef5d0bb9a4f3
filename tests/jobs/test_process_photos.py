"""Photographs and videos to captures: poses against the truth, what is done again, what is said of bad input.

COLMAP itself runs for the room of ``conftest.py`` and for pictures without overlap; a stand-in serves the rest.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

import voxfield
from voxfield.cli.__main__ import main
from voxfield.data.capture import CaptureOptions
from voxfield.data.capture_reading import read_capture
from voxfield.data.decode import read_header
from voxfield.errors import FormatError, InputError, MissingExtraError, MissingFileError, UnavailableError
from voxfield.jobs import colmap_worker, process_report, reconstruct
from voxfield.jobs import process_photos as job
from voxfield.jobs.reconstruct import pairs_to_match, run_colmap
from voxfield.jobs.stage_ledger import StageLedger
from voxfield.render.video import write_video

SMALL = {"features": 1000, "quiet": True}


def aligned_errors(output: Path, poses: np.ndarray, number: Callable[[str], int]) -> tuple[float, float]:
    """(largest distance of a camera, as a share of their extent; largest turn, degrees) after the best similarity.

    Umeyama, Least-squares estimation of transformation parameters between two point patterns, PAMI 1991.
    """
    frames = json.loads((output / "transforms.json").read_text())["frames"]
    found = np.array([frame["transform_matrix"] for frame in frames])
    truth = np.stack([poses[number(Path(frame["file_path"]).stem)] for frame in frames])
    a, b = found[:, :3, 3], truth[:, :3, 3]
    a0, b0 = a - a.mean(axis=0), b - b.mean(axis=0)
    u, d, vt = np.linalg.svd(b0.T @ a0)
    sign = np.diag([1.0, 1.0, np.linalg.det(u @ vt)])
    turn = u @ sign @ vt
    scale = np.trace(np.diag(d) @ sign) / (a0**2).sum()
    distances = np.linalg.norm(scale * a0 @ turn.T - b0, axis=1)
    cosines = (np.einsum("nij,nij->n", turn @ found[:, :3, :3], truth[:, :3, :3]) - 1) / 2
    extent = np.linalg.norm(b0, axis=1).max()
    return float(distances.max() / extent), float(np.degrees(np.arccos(cosines.clip(-1, 1))).max())


def report(output: Path) -> dict[str, Any]:
    return json.loads((output / "process.json").read_text())


# ------------------------------------------------------------------------------------------------------ with COLMAP
@pytest.fixture(scope="module")
def processed(room: Any, needs_colmap: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The room's photographs with a text file and a broken picture among them, processed; the source is beside."""
    folder = tmp_path_factory.mktemp("photos")
    source = room.write(folder / "source")
    (source / "notes.txt").write_text("not a photograph")
    (source / "9.jpg").write_bytes((source / "8.jpg").read_bytes()[:3000])
    result = voxfield.process_photos(source, folder / "capture", reduced=1, **SMALL)
    assert result.registered == tuple(f"{index}.jpg" for index in range(1, 9))
    assert [item.path for item in result.skipped] == ["9.jpg"]
    assert not result.complete
    return folder


def test_poses_and_focal_length_are_the_true_ones(processed: Path, room: Any) -> None:
    distance, turn = aligned_errors(processed / "capture", room.poses, lambda name: int(name) - 1)
    assert distance < 0.02
    assert turn < 1.0
    lens = report(processed / "capture")["cameras"][0]
    assert lens["model"] == "OPENCV"
    assert lens["parameters"][0] == pytest.approx(300, rel=0.05)


def test_the_capture_is_ready_for_training(processed: Path) -> None:
    capture = processed / "capture"
    train, test = (read_capture(capture, split=split) for split in ("train", "test"))
    assert train.source["format"] == "nerfstudio"
    assert len(test) == 1
    assert len(train) == 7
    # Depth supervision needs COLMAP's points, which transforms.json has no place for.
    model = read_capture(capture, options=CaptureOptions(format="colmap"))
    assert model.observed is not None
    assert min(len(seen) for seen in model.observed) > 50
    assert read_header(capture / "images_2" / "3.jpg").size == (160, 120)
    assert (capture / "images" / "3.jpg").read_bytes() == (processed / "source" / "3.jpg").read_bytes()


def test_the_report_says_what_was_done(processed: Path) -> None:
    said = report(processed / "capture")
    assert (said["kind"], said["matching"], said["pictures"], said["pairs"]) == ("images", "exhaustive", 8, 28)
    assert said["models"] == [8]
    assert (said["registered"], said["unregistered"]) == (8, [])
    assert said["blurred"] == []
    assert said["mean_reprojection_error"] < 1.0
    assert said["skipped"][0]["path"] == "9.jpg"
    assert "cut short" in said["skipped"][0]["reason"]
    assert set(said["versions"]) == {"voxfield", "python", "pycolmap", "pillow"}
    assert said["sources"]["1.jpg"] == "1.jpg"


def test_a_second_call_does_nothing_again(
    processed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job, "run_colmap", lambda *_, **__: pytest.fail("done again"))
    before = (processed / "capture" / "transforms.json").stat().st_mtime_ns
    code = main(
        f"capture process images {processed}/source --output {processed}/capture --features 1000 --reduced 1".split()
    )
    assert code == 1
    said = capsys.readouterr()
    assert "is up to date" in said.err
    assert "8 of 8\n" in said.out
    assert "Left out 9.jpg: cut short" in said.out
    assert (processed / "capture" / "transforms.json").stat().st_mtime_ns == before


def test_the_same_seed_gives_the_same_model(processed: Path, tmp_path: Path) -> None:
    capture = processed / "capture"
    models = tmp_path / "models"
    models.mkdir()
    run_colmap(
        tmp_path / "log.txt",
        "reconstruct",
        lambda _: None,
        database=str(shutil.copy(capture / "colmap" / "database.db", tmp_path)),
        images=str(capture / "images"),
        models=str(models),
        seed=42,
    )
    for name in ("cameras.bin", "images.bin", "points3D.bin"):
        assert (models / "0" / name).read_bytes() == (capture / "sparse" / "0" / name).read_bytes()


def test_a_video_gives_its_sharpest_frames(room: Any, needs_colmap: None, tmp_path: Path) -> None:
    frames = []
    for picture in room.pictures:
        soft = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(3)))
        frames += [soft, picture, soft]
    write_video(tmp_path / "walk.mp4", frames, fps=12, quality=8)
    result = voxfield.process_photos(tmp_path / "walk.mp4", tmp_path / "capture", frames=8, **SMALL)
    assert len(result.registered) >= 6
    assert result.matching == "sequential"
    assert list(report(tmp_path / "capture")["sources"].values()) == [f"{(3 * i + 1) / 12:.3f} s" for i in range(8)]
    distance, turn = aligned_errors(tmp_path / "capture", room.poses, lambda name: int(name.split("_")[1]) - 1)
    assert distance < 0.05
    assert turn < 2.0


class FakeModel:
    """A reconstruction of four pictures that share one lens."""

    def __init__(self, lens: str, *, possible: bool) -> None:
        self.lens = SimpleNamespace(
            model=SimpleNamespace(name=lens),
            width=320,
            height=240,
            params=[0.6, 786.0],
            has_bogus_params=lambda *limits: not possible,
        )
        self.cameras = {1: self.lens}

    def reg_image_ids(self) -> list[int]:
        return [1, 2, 3, 4]

    def image(self, number: int) -> SimpleNamespace:
        return SimpleNamespace(name=f"{number}.jpg", camera_id=1, num_points3D=200, frame_id=number)

    def camera(self, number: int) -> SimpleNamespace:
        return self.cameras[number]

    def num_reg_images(self) -> int:
        return 4

    def num_points3D(self) -> int:
        return 700

    def compute_mean_reprojection_error(self) -> float:
        return 0.2

    def write(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)


@pytest.mark.parametrize("simple_is_possible", [True, False])
def test_impossible_lenses_give_way_to_simpler_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, simple_is_possible: bool
) -> None:
    """Of few pictures two focal lengths may come out as 0.6 and 786 pixels, and cameras a quarter of the way off."""
    asked: list[str] = []
    lens = SimpleNamespace(camera_id=1, model=SimpleNamespace(name="OPENCV"), width=320, height=240)
    lens.mean_focal_length, lens.has_prior_focal_length = (lambda: 384.0), False
    written: list[str] = []

    def mapped(database: str, *_: Any, **__: Any) -> dict[int, FakeModel]:
        asked.append(Path(database).name)
        simple = asked[-1] != "database.db"
        return {0: FakeModel(written[-1] if simple else "OPENCV", possible=simple and simple_is_possible)}

    def create(number: int, model: str, *_: Any) -> SimpleNamespace:
        return SimpleNamespace(model=model, number=number)

    opened = SimpleNamespace(
        read_all_cameras=lambda: [lens], update_camera=lambda one: written.append(one.model), close=lambda: None
    )
    fake = SimpleNamespace(
        set_random_seed=lambda seed: None,
        IncrementalPipelineOptions=lambda **_: None,
        incremental_mapping=mapped,
        Database=SimpleNamespace(open=lambda path: opened),
        Camera=SimpleNamespace(create_from_model_name=create),
    )
    monkeypatch.setitem(sys.modules, "pycolmap", fake)
    (tmp_path / "database.db").write_bytes(b"matches")
    (tmp_path / "models").mkdir()
    found = colmap_worker.reconstruct(
        lambda count: None,
        database=str(tmp_path / "database.db"),
        images=str(tmp_path),
        models=str(tmp_path / "models"),
        seed=42,
    )
    assert asked == ["database.db", "simple.db"]
    assert written == ["SIMPLE_RADIAL"]
    assert found["impossible_lenses"] == (1 if simple_is_possible else 2)
    assert [model["cameras"][0]["model"] for model in found["models"]] == ["SIMPLE_RADIAL"] * simple_is_possible
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["0"] * simple_is_possible


def test_photographs_without_overlap_are_an_error(needs_colmap: None, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for index in range(3):
        write_noise(tmp_path / "source" / f"{index}.png", index)
    with pytest.raises(InputError, match="no reconstruction: 0 pairs of the 3 pictures show the same thing"):
        voxfield.process_photos(tmp_path / "source", tmp_path / "capture", **SMALL)
    assert not (tmp_path / "capture" / "sparse").exists()
    assert not (tmp_path / "capture" / "transforms.json").exists()


def test_what_colmap_says_goes_to_the_log(needs_colmap: None, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with pytest.raises(UnavailableError, match=r"pycolmap failed at reconstruct: .*log\.txt"):
        run_colmap(
            log,
            "reconstruct",
            lambda _: None,
            database=str(tmp_path / "none.db"),
            images=str(tmp_path),
            models=str(tmp_path),
            seed=0,
        )


def test_lenses_are_told_apart_by_size_and_exif(needs_colmap: None, tmp_path: Path) -> None:
    for index, (size, focal) in enumerate([((96, 64), 28), ((96, 64), 28), ((64, 96), 28), ((96, 64), 70)]):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0xA405] = focal  # FocalLengthIn35mmFilm
        write_noise(tmp_path / f"{index}.jpg", index, size=size, exif=exif)
    names = [f"{index}.jpg" for index in range(4)]
    request = {"database": str(tmp_path / "a.db"), "images": str(tmp_path), "names": names, "max_size": 400}
    options = {"camera_model": "SIMPLE_RADIAL", "shared": True, "features": 200}
    done: list[int] = []
    found = run_colmap(tmp_path / "log.txt", "extract", done.append, **request, **options)
    assert found["focal_from_exif"]
    assert found["cameras"] == 3
    assert sum(done) == 4
    assert set(found["features"]) == set(names)


# --------------------------------------------------------------------------------------------------- with a stand-in
class FakeColmap:
    """Records what is asked of it and places the first ``placed`` pictures, all of one size, around the origin."""

    def __init__(self, captures: ModuleType, folder: Path) -> None:
        self.captures, self.folder = captures, folder
        self.placed = 9
        self.others: list[int] = []
        self.asked: list[str] = []
        self.requests: dict[str, dict[str, Any]] = {}
        self.fail_at: str | None = None
        self.impossible_lenses = 0

    def __call__(self, log: Path, command: str, advance: Callable[[int], None], **request: Any) -> dict[str, Any]:
        self.asked.append(command)
        self.requests[command] = request
        if command == self.fail_at:
            raise KeyboardInterrupt
        if command == "extract":
            Path(request["database"]).write_bytes(b"features")
            advance(len(request["names"]))
            return {"features": dict.fromkeys(request["names"], 900), "focal_from_exif": False, "cameras": 1}
        if command == "match":
            return {"pairs": len(request["pairs"]), "verified_pairs": 5}
        counts = [self.placed, *self.others] if self.placed else []
        for index in range(len(counts)):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.captures.write_colmap(self.folder, self.captures.some_cameras(counts[index]))
            shutil.copytree(self.folder / "sparse" / "0", Path(request["models"]) / str(index))
        lens = {"model": "PINHOLE", "size": [48, 32], "parameters": [40.0, 40.0, 25.5, 15.25]}
        return {
            "models": [
                {
                    "folder": str(index),
                    "registered": [f"{number:03d}.jpg" for number in range(count)],
                    "points": 70,
                    "reprojection_error": 0.5,
                    "cameras": [lens],
                }
                for index, count in enumerate(counts)
            ],
            "impossible_lenses": self.impossible_lenses,
        }


def write_noise(path: Path, seed: int, *, size: tuple[int, int] = (48, 32), blur: float = 0.0, **options: Any) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).filter(ImageFilter.GaussianBlur(blur)).save(path, **options)


@pytest.fixture
def colmap(captures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeColmap:
    fake = FakeColmap(captures, tmp_path / "fake")
    monkeypatch.setattr(job, "run_colmap", fake)
    monkeypatch.setattr(job, "require_colmap", lambda: None)
    for module in (job, process_report):
        monkeypatch.setattr(module, "version_of", lambda name: "1")
    return fake


def test_a_simpler_lens_is_said(colmap: FakeColmap, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    colmap.impossible_lenses = 1
    (tmp_path / "source").mkdir()
    for index in range(colmap.placed):
        write_noise(tmp_path / "source" / f"{index:03d}.jpg", index)
    voxfield.process_photos(tmp_path / "source", tmp_path / "capture", quiet=False)
    said = " ".join("".join(capsys.readouterr()).split())
    assert "OPENCV lenses came out impossible (1 models were left out): the poses kept are of PINHOLE" in said


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Nine photographs of noise, named as the stand-in's."""
    folder = tmp_path / "source"
    folder.mkdir()
    for index in range(9):
        write_noise(folder / f"{index:03d}.jpg", index)
    return folder


def test_everything_placed_is_exit_0(colmap: FakeColmap, photographs: Path, tmp_path: Path) -> None:
    assert main(["capture", "process", "images", str(photographs), "--output", str(tmp_path / "out"), "--quiet"]) == 0
    assert colmap.asked == ["extract", "match", "reconstruct"]
    assert len(read_capture(tmp_path / "out")) == 7


def test_what_is_not_placed_or_blurred_is_named(
    colmap: FakeColmap, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    colmap.placed, colmap.others = 7, [3]
    write_noise(photographs / "002.jpg", 2, blur=1.5)
    assert main(["capture", "process", "images", str(photographs), "--output", str(tmp_path / "out"), "--quiet"]) == 1
    said = capsys.readouterr()
    assert said.err == ""
    assert "7 of 9" in said.out
    assert "not kept  of 3 pictures" in said.out
    assert "Not placed: 007.jpg, 008.jpg" in said.out
    assert "Blurred (--drop-blurred leaves them out): 002.jpg (" in said.out
    assert report(tmp_path / "out")["unregistered"] == ["007.jpg", "008.jpg"]
    assert len(json.loads((tmp_path / "out/transforms.json").read_text())["frames"]) == 7


def test_blurred_pictures_are_dropped_by_option(colmap: FakeColmap, photographs: Path, tmp_path: Path) -> None:
    write_noise(photographs / "008.jpg", 2, blur=1.5)
    colmap.placed = 8
    result = voxfield.process_photos(photographs, tmp_path / "out", drop_blurred=True, quiet=True)
    assert "008.jpg" not in colmap.requests["extract"]["names"]
    assert list(result.blurred) == ["008.jpg"]
    assert result.complete


def test_only_what_changed_is_done_again(
    colmap: FakeColmap, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def again(**options: Any) -> tuple[list[str], str]:
        colmap.asked.clear()
        voxfield.process_photos(photographs, tmp_path / "out", **options)
        return list(colmap.asked), capsys.readouterr().err

    asked, said = again()
    assert asked == ["extract", "match", "reconstruct"]
    assert "changed" not in said
    assert again(memory="16GB")[0] == []
    with pytest.raises(InputError, match=r"--memory allows 500 MB\. Look for features in smaller pictures"):
        again(memory="500MB")
    assert again()[0] == []
    asked, said = again(eval_every=4)
    assert asked == []
    assert "what is held out changed" in said
    assert len(read_capture(tmp_path / "out", split="test")) == 3
    asked, said = again(matching="sequential")
    assert asked == ["match", "reconstruct"]
    assert colmap.requests["match"]["fresh"]
    assert "the matching changed: what depends on them is made again" in said
    asked, said = again(matching="sequential", camera_model="PINHOLE")
    assert asked == ["extract", "match", "reconstruct"]
    assert "the camera model" in said
    os.utime(photographs / "003.jpg", (1, 1))
    asked, said = again(matching="sequential", camera_model="PINHOLE")
    assert asked == ["extract", "match", "reconstruct"]
    assert "the photographs or their options changed" in said
    shutil.rmtree(tmp_path / "out" / "sparse")
    assert again(matching="sequential", camera_model="PINHOLE")[0] == ["reconstruct"]


def test_an_interrupted_job_continues_where_it_was(colmap: FakeColmap, photographs: Path, tmp_path: Path) -> None:
    colmap.fail_at = "match"
    with pytest.raises(KeyboardInterrupt):
        voxfield.process_photos(photographs, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out" / "transforms.json").exists()
    colmap.fail_at = None
    colmap.asked.clear()
    assert voxfield.process_photos(photographs, tmp_path / "out", quiet=True).complete
    assert colmap.asked == ["match", "reconstruct"]
    assert not colmap.requests["match"]["fresh"]


def test_a_change_takes_old_poses_away_at_once(colmap: FakeColmap, photographs: Path, tmp_path: Path) -> None:
    voxfield.process_photos(photographs, tmp_path / "out", quiet=True)
    colmap.fail_at = "match"
    with pytest.raises(KeyboardInterrupt):
        voxfield.process_photos(photographs, tmp_path / "out", matching="sequential", quiet=True)
    assert not (tmp_path / "out" / "transforms.json").exists()
    assert not (tmp_path / "out" / "sparse").exists()


def test_no_reconstruction_names_bare_pictures(colmap: FakeColmap, photographs: Path, tmp_path: Path) -> None:
    colmap.placed = 0
    with pytest.raises(InputError, match="no reconstruction: 5 pairs of the 9 pictures"):
        voxfield.process_photos(photographs, tmp_path / "out", quiet=True)


# --------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda folder: None, "images", "no such file or folder"),
        (lambda folder: folder.mkdir(), "images", "holds no photographs"),
        (lambda folder: folder.mkdir(), "video", "expected a video file, got a folder"),
        (lambda folder: folder.write_text("hello\n" * 100), "video", "cannot be read as a video"),
        (lambda folder: folder.write_bytes(b""), "video", "cannot be read as a video"),
        (lambda folder: folder.write_text("hello"), "images", "expected a folder of photographs, got a file"),
    ],
)
def test_unusable_sources_are_one_line_and_exit_2(
    colmap: FakeColmap,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], Any],
    kind: str,
    message: str,
) -> None:
    make(tmp_path / "source.mp4")
    command = ["capture", "process", kind, str(tmp_path / "source.mp4"), "--output", str(tmp_path / "out")]
    assert main(command) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert len(said.err.splitlines()) <= 2
    assert not (tmp_path / "out").exists()


def test_one_photograph_is_too_few(colmap: FakeColmap, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    write_noise(tmp_path / "source" / "1.jpg", 0)
    with pytest.raises(InputError, match="has 1 usable photograph, expected at least 3"):
        voxfield.process_photos(tmp_path / "source", tmp_path / "out")


def test_one_usable_photograph_is_too_few(colmap: FakeColmap, photographs: Path, tmp_path: Path) -> None:
    for index in range(1, 9):
        (photographs / f"{index:03d}.jpg").write_bytes(b"\xff\xd8 no picture")
    with pytest.raises(InputError, match="has 1 usable picture, expected at least 3"):
        voxfield.process_photos(photographs, tmp_path / "out", quiet=True)


def test_a_video_of_two_frames_is_too_short(colmap: FakeColmap, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", np.zeros((2, 32, 48, 3), dtype=np.uint8), fps=5)
    with pytest.raises(InputError, match="has 2 usable frames"):
        voxfield.process_photos(tmp_path / "a.mp4", tmp_path / "out")


def test_outputs_that_would_mix_or_overwrite_are_refused(colmap: FakeColmap, photographs: Path, tmp_path: Path) -> None:
    def refused(output: Path, message: str) -> None:
        with pytest.raises(InputError, match=message):
            voxfield.process_photos(photographs, output, quiet=True)
        assert not colmap.asked

    refused(photographs / "capture", "lies in .*source")
    refused(photographs, "lies in")
    refused(tmp_path, "holds .*source itself")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "is a file")
    refused(tmp_path / "file" / "below", "cannot be (used|written to)")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.tex").write_text("x")
    refused(tmp_path / "used", "holds other files already")
    (tmp_path / "link").symlink_to(photographs)
    refused(tmp_path / "link" / "capture", "lies in")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"schema": 9, "stages": {}}', '{"schema": 1, "stages": {"a": 1}}'])
def test_a_damaged_ledger_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "stages.json").write_text(content)
    with pytest.raises(FormatError, match="damaged or of another version"):
        StageLedger(tmp_path / "stages.json")


def test_missing_extras_are_named(monkeypatch: pytest.MonkeyPatch, photographs: Path, tmp_path: Path) -> None:
    monkeypatch.setattr(reconstruct.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"voxfield\[photos\]"):
        voxfield.process_photos(photographs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"frames": 2},
        {"camera_model": "FOV"},
        {"cameras": "all"},
        {"matching": "some"},
        {"max_size": 10},
        {"features": 0},
        {"reduced": 9},
        {"eval_every": 1},
        {"seed": -1},
        {"kind": "photos"},
    ],
)
def test_settings_out_of_range_are_named(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        voxfield.process_photos(tmp_path, tmp_path / "out", **options)


def test_missing_sources(colmap: FakeColmap, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no such file"):
        voxfield.process_photos(tmp_path / "none", tmp_path / "out")


# ------------------------------------------------------------------------------------------------------------- pairs
def test_all_pairs() -> None:
    assert pairs_to_match(list("abc"), "exhaustive") == [("a", "b"), ("a", "c"), ("b", "c")]


def test_sequential_pairs_are_few_and_close_loops() -> None:
    names = [f"{index:03d}" for index in range(400)]
    pairs = pairs_to_match(names, "sequential")
    assert len(pairs) == len(set(pairs)) < 8000
    assert all(one < other for one, other in pairs)
    for step in (1, 10, 16, 128):
        assert ("100", f"{100 + step}") in pairs
    assert ("000", "390") in pairs
    assert ("001", "390") not in pairs


# --------------------------------------------------------------------------------------------------------- real data
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_real_photographs_get_the_poses_colmap_gave(needs_colmap: None, shared_data: Path, tmp_path: Path) -> None:
    given = shared_data / "images" / "colmap_cup77"
    if not given.is_dir():
        pytest.skip("needs images/colmap_cup77 in VOXFIELD_TEST_DATA")
    source = tmp_path / "source"
    source.mkdir()
    photographs = sorted((given / "images").iterdir(), key=lambda path: int(path.stem))[1:40:2]
    for photograph in photographs:
        shutil.copy(photograph, source)
    result = voxfield.process_photos(source, tmp_path / "capture", quiet=True)
    assert len(result.registered) >= 18
    options = CaptureOptions(orientation="none", centre="none", auto_scale=False)
    parts = [read_capture(given, split=split, options=options) for split in ("train", "test")]
    poses = torch.cat([part.cameras.camera_to_world for part in parts]).double().numpy()
    names = [Path(name).stem for part in parts for name in part.names]
    distance, turn = aligned_errors(tmp_path / "capture", poses, names.index)
    assert distance < 0.05
    assert turn < 2.0
