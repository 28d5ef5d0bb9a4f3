"""Captures of the Eyeful Tower data set, from a server on this machine, by the command a person types."""

import json

import pytest

from voxfield.cli.__main__ import main
from voxfield.data.capture_reading import read_capture
from voxfield.errors import InputError
from voxfield.jobs.fetch_eyefultower import CAPTURES, RESOLUTIONS, _choose


@pytest.fixture(scope="module")
def scene(tmp_path_factory, captures):
    """A scene as it lies at the source: pictures at two sizes, and files beside them that are not wanted."""
    folder = tmp_path_factory.mktemp("scene")
    captures.write_eyefultower(folder, captures.some_cameras())
    for index in range(9):
        captures.picture(folder / f"images-jpeg-1k/{captures.eyeful_name(index)}.jpg", index, (24, 16))
    (folder / "images-jpeg-2k/collage.mp4").write_bytes(b"video")
    (folder / "mesh.obj").write_bytes(b"mesh")
    return folder


@pytest.fixture
def download(bucket, tmp_path, capsys):
    """Run the command; returns its exit code and what it printed."""

    def run(*arguments, source=bucket.url):
        options = ["--output", str(tmp_path), "--source", source, "--endpoint-url", bucket.endpoint_url, "--quiet"]
        code = main(["capture", "download", "eyefultower", *arguments, *options])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def names_of(path, split):
    return set(read_capture(path, split=split).names)


def test_captures_arrive_ready_to_train_on(download, bucket, scene, tmp_path, captures):
    bucket.put_folder(scene, "riverview/")
    bucket.put_folder(scene, "table/")
    code, said = download("--capture-name", "riverview", "table", "--resolution-name", "jpeg_2k", "jpeg_1k")
    assert code == 0, said
    assert "Downloaded 42 files" in said
    small = tmp_path / "riverview/images-jpeg-1k"
    assert f"Ready      {small}" in said
    assert not list(tmp_path.rglob("*.mp4"))
    assert not list(tmp_path.rglob("mesh*"))
    assert not (tmp_path / "failures.json").exists()
    full = json.loads((scene / "cameras.json").read_text())["KRT"][0]
    values = json.loads((small / "transforms.json").read_text())
    frame = next(one for one in values["frames"] if full["cameraId"] in one["file_path"])
    # Pixel centres lie at +0.5, so that edges stay edges: every length is scaled by the ratio of the sizes.
    lens = {**values, **frame}
    scale = 24 / full["width"]
    assert (lens["w"], lens["h"]) == (24, 16)
    assert lens["fl_x"] == pytest.approx(full["K"][0][0] * scale, rel=1e-12)
    assert lens["cx"] == pytest.approx(full["K"][2][0] * scale, rel=1e-12)
    assert lens["cy"] == pytest.approx(full["K"][2][1] * 16 / full["height"], rel=1e-12)
    tests = {f"{captures.eyeful_name(index)}.jpg" for index in (1, 4, 7)}
    for file, count in (("transforms.json", 9), ("transforms_300.json", 9), ("transforms_half.json", 4)):
        train, held_out = names_of(small / file, "train"), names_of(small / file, "test")
        assert len(train | held_out) == count
        assert held_out
        assert held_out <= tests
        assert not train & tests


def test_nothing_is_downloaded_twice_and_what_is_new_is_taken_in(download, bucket, scene, tmp_path, captures):
    bucket.put_folder(scene, "riverview/")
    last = f"riverview/images-jpeg-2k/{captures.eyeful_name(8)}.jpg"
    bucket.delete(last)
    code, said = download()
    # The calibration knows a picture that is not there.
    assert code == 1
    assert "no such file" in said
    assert download()[0] == 1
    folder = tmp_path / "riverview/images-jpeg-2k"
    assert len(names_of(folder, "train")) == 5
    bucket.put(last, (scene / last.removeprefix("riverview/")).read_bytes())
    code, said = download()
    assert code == 0, said
    assert "Downloaded 1 files" in said
    assert len(names_of(folder, "train")) == 6
    assert not (tmp_path / "failures.json").exists()
    # Corrected by hand, it stays.
    (folder / "transforms.json").write_text((folder / "transforms.json").read_text() + "\n\n")
    code, said = download()
    assert (code, said.splitlines()[0]) == (0, "Nothing to download: all 12 files are there.")
    assert (folder / "transforms.json").read_text().endswith("\n\n")


def test_what_the_source_lacks_does_not_keep_the_rest(download, bucket, scene, tmp_path):
    bucket.put_folder(scene, "riverview/")
    bucket.put("riverview/images-2k/10/10_DSC0000.exr", b"no picture")
    bucket.put("riverview/images-jpeg-2k/../../../evil.jpg", b"evil")
    code, said = download("--capture-name", "kitchen", "riverview", "--resolution-name", "exr_2k", "jpeg_2k", "jpeg_4k")
    assert code == 1
    assert f"{bucket.url}/kitchen: no such capture there" in said
    assert "The source has: riverview." in said
    assert "images-jpeg-4k: no .jpg pictures there" in said
    assert "lead outside the folder" in said
    assert len(names_of(tmp_path / "riverview/images-jpeg-2k", "train")) == 6
    failures = json.loads((tmp_path / "failures.json").read_text())
    assert {f"{bucket.url}/kitchen", str(tmp_path / "riverview/images-2k")} <= {item["path"] for item in failures}
    assert not list(tmp_path.rglob("evil.jpg"))


def test_a_folder_on_this_machine_can_be_the_source(scene, tmp_path, capsys):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/office1a").symlink_to(scene)
    source, output = (tmp_path / "disk").as_uri(), tmp_path / "output"
    command = ["capture", "download", "eyefultower", "--capture-name", "office1a", "--quiet"]
    assert main([*command, "--source", source, "--output", str(output)]) == 0
    assert "Downloaded 12 files" in capsys.readouterr().out


def test_a_server_that_cannot_be_reached_is_said(capsys):
    code = main(["capture", "download", "eyefultower", "--endpoint-url", "http://127.0.0.1:9", "--quiet"])
    assert code == 1
    assert "http://127.0.0.1:9: cannot be reached" in capsys.readouterr().err


def test_unknown_names_are_errors_with_the_nearest(download):
    code, said = download("--capture-name", "rivervew")
    assert code == 2
    assert "capture_name: unknown name 'rivervew'. Did you mean riverview" in said
    code, said = download("--resolution-name", "jpeg_3k")
    assert code == 2
    assert "Did you mean jpeg_" in said


def test_all_is_every_one_and_names_count_once():
    assert _choose("x", ["table", "all"], CAPTURES) == list(CAPTURES)
    assert _choose("x", ["jpeg_2k", "jpeg_1k", "jpeg_2k"], RESOLUTIONS) == ["jpeg_1k", "jpeg_2k"]
    with pytest.raises(InputError, match="name at least one"):
        _choose("x", [], CAPTURES)
