"""What arrives is what was there, whatever breaks on the way."""

import contextlib
import errno
import itertools
import os
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from voxfield.errors import InputError, MissingExtraError, TransferError
from voxfield.storage.remote.fetch import fetch, format_bytes
from voxfield.storage.remote.sources import FetchOptions, Source, name_fault


def content(size, seed=0):
    return bytes((index * 31 + seed) % 251 for index in range(size))


FILES = {
    "a.jpg": content(5000),
    "10/b.jpg": content(70_000, 1),
    "10/empty.jpg": b"",
    "11/with space.jpg": content(9, 2),
}


@contextlib.contextmanager
def no_display(description, total_bytes, total_files):
    yield lambda done_bytes, done_files: None


def run(source, target, folder="", display=no_display, **options):
    """Fetch all of a source into ``target``."""
    remote = Source(source, FetchOptions(**{"attempts": 3, "timeout": 5.0, **options}))
    files, refused = remote.files(folder, lambda name: True)
    done = fetch(remote, files, target, display=display)
    return SimpleNamespace(
        files=done.files, transferred=done.transferred, present=done.present, failures=[*refused, *done.failures]
    )


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def served(request, tmp_path):
    """(address, options) of ``FILES`` at a source of the kind."""
    if request.param == "s3":
        bucket = request.getfixturevalue("bucket")
        for name, body in FILES.items():
            bucket.put(name, body)
        return bucket.url, {"endpoint_url": bucket.endpoint_url}
    if request.param == "http":
        web = request.getfixturevalue("web")
        web.files = dict(FILES)
        return web.url, {}
    for name, body in FILES.items():
        path = tmp_path / "remote" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return (tmp_path / "remote").as_uri(), {}


every_source = pytest.mark.parametrize("served", ["s3", "http", "file"], indirect=True)


@every_source
def test_everything_arrives_and_nothing_comes_twice(served, tmp_path):
    url, options = served
    done = run(url, tmp_path / "target", **options)
    assert done.files == tuple(sorted(FILES))
    assert done.transferred == sum(map(len, FILES.values()))
    assert not done.failures
    assert tree(tmp_path / "target") == FILES
    again = run(url, tmp_path / "target", **options)
    assert (again.files, again.transferred, again.present) == ((), 0, len(FILES))


@every_source
def test_a_cut_transfer_continues(served, tmp_path):
    url, options = served
    remote = Source(url, FetchOptions(**options))
    (file,) = [one for one in remote.files("", lambda name: True)[0] if one.name == "10/b.jpg"]
    partial = tmp_path / "target/10" / file.partial_name()
    partial.parent.mkdir(parents=True)
    partial.write_bytes(FILES["10/b.jpg"][:60_000])
    # Of a version that is gone.
    stale = partial.with_name(".b.jpg.0123456789ab.partial")
    stale.write_bytes(b"old")
    done = run(url, tmp_path / "target", **options)
    assert done.transferred == sum(map(len, FILES.values())) - 60_000
    assert tree(tmp_path / "target") == FILES


@every_source
def test_jumps_of_the_machines_clock_change_nothing(served, tmp_path, monkeypatch):
    url, options = served
    real, jumps = time.time, itertools.cycle((0.0, 240.0, -240.0))
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    done = run(url, tmp_path / "target", **options)
    assert not done.failures
    assert tree(tmp_path / "target") == FILES
    again = run(url, tmp_path / "target", **options)
    assert (again.files, again.present) == ((), len(FILES))


@every_source
def test_files_of_another_size_are_fetched_again(served, tmp_path):
    url, options = served
    (tmp_path / "target").mkdir()
    (tmp_path / "target/a.jpg").write_bytes(FILES["a.jpg"][:100])
    assert "a.jpg" in run(url, tmp_path / "target", **options).files
    assert tree(tmp_path / "target") == FILES


@every_source
def test_no_such_folder_is_an_empty_one(served):
    url, options = served
    assert Source(url, FetchOptions(**options)).files("nowhere", lambda name: True) == ([], [])


def test_folders_are_named(bucket):
    bucket.put("table/cameras.json", b"{}")
    bucket.put("kitchen/cameras.json", b"{}")
    assert Source(bucket.url, FetchOptions(endpoint_url=bucket.endpoint_url)).folders() == ["kitchen", "table"]


class TestChecksums:
    def test_damage_in_place_is_found_on_request(self, bucket, tmp_path):
        bucket.put("a.jpg", FILES["a.jpg"])
        (tmp_path / "a.jpg").write_bytes(b"x" * 5000)
        assert run(bucket.url, tmp_path, endpoint_url=bucket.endpoint_url).present == 1
        done = run(bucket.url, tmp_path, endpoint_url=bucket.endpoint_url, verify=True)
        assert done.files == ("a.jpg",)
        assert tree(tmp_path) == {"a.jpg": FILES["a.jpg"]}

    def test_a_damaged_start_is_fetched_anew(self, bucket, tmp_path):
        bucket.put("a.jpg", FILES["a.jpg"])
        options = {"endpoint_url": bucket.endpoint_url}
        ((file,), _) = Source(bucket.url, FetchOptions(**options)).files("", lambda name: True)
        (tmp_path / file.partial_name()).write_bytes(b"x" * 4000)
        assert run(bucket.url, tmp_path, **options).transferred == 1000 + 5000
        assert tree(tmp_path) == {"a.jpg": FILES["a.jpg"]}

    def test_content_that_never_fits_is_a_failure(self, bucket, tmp_path):
        stored = bucket.put("a.jpg", FILES["a.jpg"])
        stored._etag = "0" * 32
        done = run(bucket.url, tmp_path, endpoint_url=bucket.endpoint_url)
        assert "its checksum is not the one stated" in done.failures[0].reason
        assert tree(tmp_path) == {}

    def test_tags_of_uploads_in_parts_are_no_checksums(self, bucket, tmp_path):
        stored = bucket.put("a.jpg", FILES["a.jpg"])
        stored._etag = "0" * 32 + "-2"
        assert not run(bucket.url, tmp_path, endpoint_url=bucket.endpoint_url).failures
        assert tree(tmp_path) == {"a.jpg": FILES["a.jpg"]}


class TestFaults:
    def test_a_broken_connection_is_taken_up_again(self, web, tmp_path):
        web.files = {"a.jpg": content(1_000_000)}
        web.cut = {"a.jpg": 400_000}
        assert not run(web.url, tmp_path).failures
        assert tree(tmp_path) == web.files
        assert web.sent["a.jpg"] < 1_500_000

    def test_a_server_without_ranges_starts_over(self, web, tmp_path):
        web.files, web.ranges = {"a.jpg": content(1_000_000)}, False
        web.cut = {"a.jpg": 400_000}
        assert not run(web.url, tmp_path).failures
        assert tree(tmp_path) == web.files
        assert web.sent["a.jpg"] == 1_400_000

    def test_less_than_stated_is_a_failure_that_keeps_the_rest(self, web, tmp_path):
        web.files = dict(FILES)
        web.stated = {"a.jpg": 6000}
        done = run(web.url, tmp_path, timeout=1.0)
        assert [item.path for item in done.failures] == [f"{web.url}/a.jpg"]
        assert sorted(done.files) == sorted(set(FILES) - {"a.jpg"})
        assert not (tmp_path / "a.jpg").exists()

    def test_more_than_stated_is_a_failure(self, web, tmp_path):
        web.files = {"a.jpg": content(5000)}
        remote = Source(web.url, FetchOptions(attempts=1))
        ((file,), _) = remote.files("", lambda name: True)
        web.files["a.jpg"] = content(6000)
        done = fetch(remote, [file], tmp_path, display=no_display)
        assert "more bytes came than the 5,000 stated" in done.failures[0].reason
        assert not (tmp_path / "a.jpg").exists()

    def test_a_file_that_is_gone_is_tried_once(self, bucket, tmp_path):
        bucket.put("a.jpg", b"1")
        remote = Source(bucket.url, FetchOptions(endpoint_url=bucket.endpoint_url, attempts=100))
        files, _ = remote.files("", lambda name: True)
        bucket.delete("a.jpg")
        done = fetch(remote, files, tmp_path, display=no_display)
        assert [item.path for item in done.failures] == [f"{bucket.url}/a.jpg"]

    def test_what_is_not_public_says_so(self, bucket, tmp_path):
        bucket.put("a.jpg", b"1", public=False)
        done = run(bucket.url, tmp_path, endpoint_url=bucket.endpoint_url, anonymous=True)
        assert "Forbidden" in done.failures[0].reason

    def test_a_source_that_fails_throughout_is_left(self, web, tmp_path):
        web.files = {f"{index:03}.jpg": b"1234" for index in range(60)}
        remote = Source(web.url, FetchOptions(attempts=1, transfers=2))
        files, _ = remote.files("", lambda name: True)
        web.broken = set(web.files)
        done = fetch(remote, files, tmp_path, display=no_display)
        assert len(done.failures) == 60
        reasons = [item.reason for item in done.failures]
        assert sum("not tried: 16 files in a row failed" in reason for reason in reasons) > 30

    @pytest.mark.parametrize(("code", "tried"), [(errno.ENOSPC, 0), (errno.EACCES, 2)])
    def test_a_disk_that_refuses(self, web, tmp_path, monkeypatch, code, tried):
        web.files = {"a.jpg": b"1", "b.jpg": b"22", "c.jpg": b"333"}
        replace = Path.replace

        def refuse(self, target):
            if Path(target).name == "a.jpg":
                raise OSError(code, os.strerror(code))
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", refuse)
        done = run(web.url, tmp_path, transfers=1)
        assert len(done.files) == tried
        assert "cannot be written" in done.failures[0].reason
        assert all("the disk is full" in item.reason for item in done.failures[1:])

    def test_no_room_is_said_before_anything_is_fetched(self, web, tmp_path, monkeypatch):
        web.files = dict(FILES)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=70_000))
        with pytest.raises(InputError, match=r"75 kB are to be fetched, but only 70 kB are free"):
            run(web.url, tmp_path / "new/target")
        assert not web.sent

    def test_an_interrupt_leaves_what_to_continue_from(self, web, tmp_path):
        web.files = {f"{index}.jpg": content(300_000, index) for index in range(6)}

        @contextlib.contextmanager
        def interrupting(description, total_bytes, total_files):
            def watch(done_bytes, done_files):
                if done_files:
                    raise KeyboardInterrupt

            yield watch

        with pytest.raises(KeyboardInterrupt):
            run(web.url, tmp_path, display=interrupting, transfers=1)
        complete = {name: body for name, body in tree(tmp_path).items() if name.endswith(".jpg")}
        assert complete
        assert all(body == web.files[name] for name, body in complete.items())
        assert run(web.url, tmp_path).present == len(complete)
        assert tree(tmp_path) == web.files


class TestNames:
    @pytest.mark.parametrize(
        "name",
        ["../evil.jpg", "a/../../evil.jpg", "/abs.jpg", "a//b.jpg", "./a.jpg", "a\\..\\b.jpg", "C:x", "a\0b", "a\nb"],
    )
    def test_names_that_lead_outside_are_faults(self, name):
        assert name_fault(name) is not None

    @pytest.mark.parametrize("name", ["a.jpg", "10/10_DSC0001.jpg", "ünïcode/ö.jpg", "..a", "a b"])
    def test_other_names_are_not(self, name):
        assert name_fault(name) is None

    def test_long_names_are_faults(self):
        assert "longer" in (name_fault("x" * 300) or "")

    @pytest.mark.parametrize("key", ["10/../../../evil.jpg", "/evil.jpg", "10/..\\..\\evil.jpg"])
    def test_hostile_keys_are_refused(self, bucket, tmp_path, key):
        bucket.put("good.jpg", b"1")
        bucket.put(key, b"evil")
        done = run(bucket.url, tmp_path / "a/b/c", endpoint_url=bucket.endpoint_url)
        assert done.files == ("good.jpg",)
        assert [item.path for item in done.failures] == [f"{bucket.url}/{key}"]
        assert tree(tmp_path) == {"a/b/c/good.jpg": b"1"}

    @pytest.mark.parametrize("link", ["..%2f..%2fevil.jpg", "%2e%2e/", "/data/x/%2e%2e/evil.jpg"])
    def test_hostile_links_are_refused(self, web, tmp_path, link):
        web.files = {"x/good.jpg": b"1"}
        web.links = {"x": f'<a href="{link}">evil</a><a href="http://127.0.0.1:9/evil.jpg">elsewhere</a>'}
        run(web.url, tmp_path / "a/b", folder="x")
        assert tree(tmp_path) == {"a/b/x/good.jpg": b"1"}

    def test_pages_that_list_each_other_end(self, web, tmp_path):
        web.files = {"x/good.jpg": b"1"}
        web.links = {"x": '<a href="./">here</a><a href="x/">again</a>'}
        assert run(web.url, tmp_path, folder="x").files == ("x/good.jpg",)


class TestSources:
    @pytest.mark.parametrize(
        ("url", "endpoint_url"), [("s3://nowhere/x", "http://127.0.0.1:9"), ("http://127.0.0.1:9", None)]
    )
    def test_one_that_cannot_be_reached_is_an_error(self, url, endpoint_url):
        with pytest.raises(TransferError, match=r"127\.0\.0\.1:9: cannot be reached"):
            Source(url, FetchOptions(endpoint_url=endpoint_url)).files("x", lambda name: True)

    def test_a_bucket_that_does_not_exist_is_an_error(self, bucket):
        with pytest.raises(TransferError, match="bucket does not exist"):
            Source("s3://no-such-bucket/x", FetchOptions(endpoint_url=bucket.endpoint_url)).files("", lambda name: True)

    @pytest.mark.parametrize("url", ["riverview", "simplecache::s3://b/x", "s3:x", "s3://", ""])
    def test_other_addresses_are_errors(self, url):
        with pytest.raises(InputError, match="expected an s3://"):
            Source(url, FetchOptions())

    def test_a_missing_package_names_its_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "fsspec", None)
        monkeypatch.setenv("AWS_REGION", "of-no-client-that-there-is")
        with pytest.raises(MissingExtraError, match=r'pip install "voxfield\[remote\]"'):
            Source("s3://bucket/x", FetchOptions())

    @pytest.mark.parametrize("options", [{"transfers": 0}, {"transfers": 65}, {"attempts": 0}, {"timeout": 0.0}])
    def test_impossible_options_are_errors(self, options):
        with pytest.raises(InputError, match=next(iter(options))):
            FetchOptions(**options)


@pytest.mark.parametrize(
    ("count", "words"), [(512, "512 bytes"), (1500, "1.5 kB"), (2.34e9, "2.34 GB"), (1.7e12, "1.7 TB")]
)
def test_bytes_in_words(count, words):
    assert format_bytes(count) == words
