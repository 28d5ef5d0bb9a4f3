import errno
import json
import os
from pathlib import Path

import pytest

from voxfield.errors import DiskFullError, InputError
from voxfield.storage.atomic import replacing, write_bytes, write_json, write_text


def test_new_file_in_new_folders(tmp_path):
    write_text(tmp_path / "a" / "b" / "note.txt", "élan")
    assert (tmp_path / "a" / "b" / "note.txt").read_bytes() == "élan".encode()


def test_replaces_what_was_there_and_leaves_nothing_beside_it(tmp_path):
    write_bytes(tmp_path / "file", b"old")
    write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_keeps_the_old_file_and_removes_the_half_written_one(tmp_path, error):
    write_bytes(tmp_path / "file", b"old")
    with pytest.raises(error), replacing(tmp_path / "file") as temporary:  # noqa: PT012 - the block is what is tested
        temporary.write_bytes(b"half")
        raise error
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_file_is_not_in_place_before_the_block_ends(tmp_path):
    with replacing(tmp_path / "file.png") as temporary:
        temporary.write_bytes(b"content")
        assert not (tmp_path / "file.png").exists()
        assert list(tmp_path.glob("*.png")) == []
    assert (tmp_path / "file.png").read_bytes() == b"content"


def test_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == []


def test_long_names_fit(tmp_path):
    name = "n" * 250
    write_bytes(tmp_path / name, b"content")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_json_round_trip_and_no_nan(tmp_path):
    write_json(tmp_path / "line.json", {"x": [1, None]}, indent=None)
    assert (tmp_path / "line.json").read_text(encoding="utf-8") == '{"x": [1, null]}\n'
    write_json(tmp_path / "a.json", {"x": [1, None], "name": "é\udcff"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, None], "name": "é\udcff"}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert "é" in json.loads((tmp_path / "a.json").read_text())["name"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named(tmp_path, code):
    write_text(tmp_path / "note.txt", "old")
    with pytest.raises(DiskFullError, match=r"note\.txt: there is no room") as caught, replacing(tmp_path / "note.txt"):
        raise OSError(code, os.strerror(code))
    assert caught.value.errno == code
    assert (tmp_path / "note.txt").read_text() == "old"
    with pytest.raises(PermissionError), replacing(tmp_path / "note.txt"):
        raise PermissionError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize("place", ["s3://bucket/a.json", Path("s3://bucket/a.json")])
def test_urls_do_not_become_folders_of_that_name(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"s3://bucket/a\.json: this call writes to this machine only"):
        write_json(place, {})
    assert not list(tmp_path.iterdir())
