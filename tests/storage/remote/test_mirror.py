"""What lies at a URL is here as it is there; what is written here is there whole or not at all."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from voxfield.errors import FormatError, InputError, MissingExtraError, MissingFileError, TransferError
from voxfield.storage.remote import Onlooker, local, published, publishing_back, shown, told_by_url, url_of, watched_by
from voxfield.storage.remote import sources as sources_module
from voxfield.storage.remote.ledger import Entry, Ledger
from voxfield.storage.remote.mirror import Mirror, cache_folder
from voxfield.storage.remote.publish import tag_of
from voxfield.storage.remote.sources import FetchOptions, Source

DATASET = {
    "metadata.json": b'{"version": 1}',
    "blocks/a.bin": b"a" * 3000,
    "blocks/b.bin": b"b" * 40,
    "splits.json": b"{}",
}


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def forget_here(monkeypatch, tmp_path):
    """What another machine has: nothing."""
    monkeypatch.setenv("VOXFIELD_CACHE", str(tmp_path / "other-machine"))


@pytest.fixture
def traffic(monkeypatch):
    """What is transferred: "read NAME", "send NAME" and "remove NAME", in order."""
    seen = []

    def watching(verb, name_of):
        real = getattr(Source, verb)

        def call(self, *args):
            seen.append(f"{verb} {name_of(*args)}")
            return real(self, *args)

        monkeypatch.setattr(Source, verb, call)

    watching("read", lambda file, offset: file.name)
    watching("send", lambda path, name: name)
    watching("remove", lambda name: name)
    return seen


@pytest.fixture(params=["s3", "memory", "file"])
def home(request, tmp_path):
    """URL of a folder that can be written to."""
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket').root}/data"
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
        return "memory://bucket/data"
    return (tmp_path / "remote" / "data").as_uri()


def put(url, files):
    source = Source(url, FetchOptions())
    for name, content in files.items():
        there = Path(os.environ["VOXFIELD_CACHE"]).with_suffix(".upload")
        there.write_bytes(content)
        if source.protocol == "file":
            (Path(source._root) / name).parent.mkdir(parents=True, exist_ok=True)
        source.send(there, name)


class TestPlaces:
    @pytest.mark.parametrize(
        ("place", "url"),
        [
            ("s3://b/x", "s3://b/x"),
            ("https://h/x?a=1", "https://h/x?a=1"),
            (Path("s3://b/x"), "s3://b/x"),
            (Path("https://h:80/x"), "https://h:80/x"),
            ("nosuch://b/x", "nosuch://b/x"),
            ("runs/lego", None),
            (Path("runs/a:b"), None),
            ("C:/data", None),
            ("C:\\data", None),
            (None, None),
            (3, None),
        ],
    )
    def test_urls_are_told_from_paths(self, place, url):
        assert url_of(place) == url

    def test_paths_are_themselves(self, tmp_path):
        assert local(tmp_path / "x") == tmp_path / "x"
        with published(tmp_path / "x") as path:
            assert path == tmp_path / "x"
        with publishing_back(tmp_path):
            pass
        assert shown(tmp_path) == str(tmp_path)

    def test_the_cache_is_where_the_system_has_caches(self, monkeypatch, tmp_path):
        assert cache_folder() == Path(os.environ["VOXFIELD_CACHE"])
        monkeypatch.delenv("VOXFIELD_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache_folder() == tmp_path / "voxfield"
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_folder() == Path.home() / ".cache" / "voxfield"


class TestReading:
    def test_a_folder_arrives_once(self, home, traffic):
        put(home, DATASET)
        traffic.clear()
        here = local(home)
        assert here.name == "data"
        assert tree(here) == DATASET
        assert sorted(traffic) == sorted(f"read {name}" for name in DATASET)
        traffic.clear()
        assert local(f"{home}/") == here
        assert not traffic

    def test_only_what_changed_comes_again(self, home, traffic):
        put(home, DATASET)
        here = local(home)
        time.sleep(0.01)
        put(home, {"blocks/b.bin": b"B" * 40, "new.bin": b"new"})
        Source(home, FetchOptions()).remove("splits.json")
        traffic.clear()
        assert tree(local(home)) == {
            "metadata.json": DATASET["metadata.json"],
            "blocks/a.bin": DATASET["blocks/a.bin"],
            "blocks/b.bin": b"B" * 40,
            "new.bin": b"new",
        }
        assert sorted(traffic) == ["read blocks/b.bin", "read new.bin"]
        assert here == local(home)

    def test_a_file_comes_by_itself(self, home, traffic):
        put(home, DATASET)
        traffic.clear()
        here = local(f"{home}/blocks/a.bin")
        assert here.read_bytes() == DATASET["blocks/a.bin"]
        assert traffic == ["read a.bin"]
        assert shown(here) == f"{home}/blocks/a.bin"

    def test_a_file_that_names_others_brings_its_folder(self, home):
        put(home, DATASET)
        alone = local(f"{home}/metadata.json", alone=True)
        assert tree(alone.parent) == {"metadata.json": DATASET["metadata.json"]}
        assert tree(local(f"{home}/metadata.json").parent) == DATASET

    def test_a_damaged_local_copy_of_the_same_size_and_time_is_out_of_reach_but_a_touched_one_is_checked(
        self, bucket, traffic
    ):
        bucket.write("data/a.bin", b"12345")
        here = local(f"{bucket.root}/data/a.bin")
        Mirror.of(f"{bucket.root}/data").home.joinpath("ledger.jsonl").unlink()
        traffic.clear()
        local(f"{bucket.root}/data/a.bin")
        assert not traffic  # adopted by its checksum
        Mirror.of(f"{bucket.root}/data").home.joinpath("ledger.jsonl").unlink()
        here.write_bytes(b"54321")
        local(f"{bucket.root}/data/a.bin")
        assert here.read_bytes() == b"12345"

    def test_what_was_changed_here_stays(self, home, traffic):
        put(home, DATASET)
        here = local(home)
        (here / "blocks/a.bin").write_bytes(b"ours")
        traffic.clear()
        assert (local(home) / "blocks/a.bin").read_bytes() == b"ours"
        assert not traffic

    def test_what_was_changed_here_and_there_is_set_aside(self, home):
        put(home, DATASET)
        here = local(home)
        (here / "blocks/a.bin").write_bytes(b"ours")
        time.sleep(0.01)
        put(home, {"blocks/a.bin": b"theirs"})
        said = []
        with watched_by(Onlooker(say=said.append)):
            local(home)
        assert (here / "blocks/a.bin").read_bytes() == b"theirs"
        (kept,) = (here.parent / "set-aside").rglob("a.bin")
        assert kept.read_bytes() == b"ours"
        assert "1 files were changed here and at" in said[0]
        assert str(kept.parents[1]) in said[0]

    def test_names_that_lead_outside_are_left_out(self, bucket):
        bucket.write("data/good.bin", b"1")
        bucket.write("data/x/../../../../evil.bin", b"evil")
        said = []
        with watched_by(Onlooker(say=said.append)):
            here = local(f"{bucket.root}/data")
        assert tree(here.parent.parent.parent).keys() & {"evil.bin"} == set()
        assert tree(here) == {"good.bin": b"1"}
        assert "lead outside the folder. It is left out." in said[0]

    def test_an_interrupted_transfer_continues(self, web, monkeypatch):
        content = bytes(range(256)) * 4000
        web.files = {"x/a.bin": content, "x/b.bin": content}
        web.cut = {"x/a.bin": 600_000}
        monkeypatch.setitem(FetchOptions.__init__.__kwdefaults__, "attempts", 1)
        with pytest.raises(TransferError, match=r"a\.bin: could not be fetched to .*x: .*600,?000 of"):
            local(f"{web.url}/x")
        sent = web.sent["x/b.bin"]
        here = local(f"{web.url}/x")
        assert tree(here) == {"a.bin": content, "b.bin": content}
        # Not anew. What the library had received and not handed on when the connection broke off is sent once more.
        assert web.sent["x/a.bin"] < 600_000 + len(content)
        assert web.sent["x/b.bin"] == sent

    def test_web_pages_list_folders(self, web):
        web.files = {f"set/{name}": content for name, content in DATASET.items()}
        assert tree(local(f"{web.url}/set")) == DATASET
        assert local(f"{web.url}/set/blocks/a.bin").read_bytes() == DATASET["blocks/a.bin"]
        web.files["set/blocks/b.bin"] = b"changed"
        assert (local(f"{web.url}/set") / "blocks/b.bin").read_bytes() == b"changed"

    def test_signed_addresses(self, web):
        web.files = {"a.vdb?signature=1/2": b"volume"}
        here = local(f"{web.url}/a.vdb?signature=1/2")
        assert here.name == "a.vdb"
        assert here.read_bytes() == b"volume"

    def test_two_at_once_fetch_once(self, bucket, traffic):
        for name, content in DATASET.items():
            bucket.write(f"data/{name}", content)
        threads = [threading.Thread(target=local, args=(f"{bucket.root}/data",)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(traffic) == sorted(f"read {name}" for name in DATASET)

    def test_no_room_is_said_first(self, home, monkeypatch, traffic):
        put(home, DATASET)
        traffic.clear()
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
        with pytest.raises(InputError, match=r"are to be fetched, but only 100 bytes are free"):
            local(home)
        assert not traffic


class TestWriting:
    def test_lists_of_contents_come_last(self, home, traffic):
        with published(home, folder=True) as here:
            write(here, DATASET)
        assert sorted(traffic[:2]) == ["send blocks/a.bin", "send blocks/b.bin"]
        assert sorted(traffic[2:]) == ["send metadata.json", "send splits.json"]

    def test_another_machine_reads_it(self, home, monkeypatch, tmp_path):
        with published(home, folder=True) as here:
            write(here, DATASET)
        forget_here(monkeypatch, tmp_path)
        assert tree(local(home)) == DATASET

    def test_a_job_continues_what_is_there(self, home, monkeypatch, tmp_path, traffic):
        put(home, DATASET)
        forget_here(monkeypatch, tmp_path)
        traffic.clear()
        with published(home, folder=True) as here:
            assert tree(here) == DATASET
            write(here, {"blocks/c.bin": b"c", "metadata.json": b"{}"})
            traffic.clear()
        assert traffic == ["send blocks/c.bin", "send metadata.json"]

    def test_what_is_unchanged_is_not_sent_again(self, bucket, traffic):
        url = f"{bucket.root}/data"
        for _ in range(2):
            with published(url, folder=True) as here:
                write(here, DATASET)
        assert len(traffic) == len(DATASET)

    def test_lists_are_withdrawn_while_files_are_replaced(self, home, traffic):
        with published(home, folder=True) as here:
            write(here, DATASET)
        time.sleep(0.01)
        with published(home, folder=True) as here:
            write(here, {"blocks/a.bin": b"other"})
            traffic.clear()
        assert sorted(traffic[:2]) == ["remove metadata.json", "remove splits.json"]
        assert traffic[2] == "send blocks/a.bin"
        assert sorted(traffic[3:]) == ["send metadata.json", "send splits.json"]

    def test_withdrawn_lists_are_not_forgotten(self, home, monkeypatch):
        with published(home, folder=True) as here:
            write(here, DATASET)
        time.sleep(0.01)

        def failing(self, path, name):
            raise OSError("500 InternalError")

        with monkeypatch.context() as patched:
            patched.setattr(Source, "send", failing)
            with contextlib.suppress(TransferError), published(home, folder=True) as here:
                write(here, {"blocks/a.bin": b"other"})
        with published(home, folder=True) as here:
            assert tree(here) == {**DATASET, "blocks/a.bin": b"other"}
        names = [file.name for file in Source(home, FetchOptions()).files("", lambda name: True)[0]]
        assert names == sorted(DATASET)

    def test_a_file_that_is_written_anew_replaces_whatever_is_there(self, bucket):
        url = f"{bucket.root}/a.vdb"
        with published(url) as path:
            path.write_bytes(b"first")
        bucket.write("a.vdb", b"somebody else's")
        with published(url) as path:
            path.write_bytes(b"again")
        assert bucket.read("a.vdb") == b"again"

    def test_servers_are_told_apart(self, monkeypatch):
        one = Mirror.of("s3://bucket/x").folder
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        assert Mirror.of("s3://bucket/x").folder != one

    def test_a_runs_list_stays(self, home, traffic):
        run = {"experiment.json": b"{}", "log.jsonl": b"1\n"}
        with published(home, folder=True) as here:
            write(here, run)
        with published(home, folder=True) as here:
            write(here, {"log.jsonl": b"1\n2\n"})
            traffic.clear()
        assert traffic == ["send log.jsonl"]

    def test_what_is_removed_here_is_removed_there(self, home):
        with published(home, folder=True) as here:
            write(here, {"experiment.json": b"{}", "checkpoints/1.pt": b"1"})
        with published(home, folder=True) as here:
            (here / "checkpoints/1.pt").unlink()
            write(here, {"checkpoints/2.pt": b"2"})
        names = [file.name for file in Source(home, FetchOptions()).files("", lambda name: True)[0]]
        assert names == ["checkpoints/2.pt", "experiment.json"]

    def test_a_file_and_what_was_written_beside_it(self, home, traffic):
        put(home, {"old.vdb": b"old"})
        local(f"{home}/old.vdb")
        traffic.clear()
        with published(f"{home}/mesh.ply") as path:
            path.write_bytes(b"mesh")
            path.with_suffix(".png").write_bytes(b"texture")
            path.with_name(".unfinished").write_bytes(b"")
        assert sorted(traffic) == ["send mesh.ply", "send mesh.png"]
        assert shown(path) == f"{home}/mesh.ply"

    def test_a_job_that_fails_publishes_nothing(self, home, traffic):
        with contextlib.suppress(FormatError), published(home, folder=True) as here:
            write(here, {"blocks/a.bin": b"half"})
            raise FormatError("broken")
        assert not traffic
        # The next attempt finds what it had.
        with published(home, folder=True) as here:
            assert tree(here) == {"blocks/a.bin": b"half"}

    def test_big_files_go_in_parts(self, bucket, monkeypatch, tmp_path):
        monkeypatch.setattr(sources_module, "PART_BYTES", 5 << 20)
        with published(f"{bucket.root}/big.bin") as path:
            path.write_bytes(bytes(12 << 20))
        source = Source(bucket.root, FetchOptions())
        file = source.file("big.bin")
        assert file.version.strip('"').endswith("-3")
        assert tag_of(path, 5 << 20) == file.version.strip('"')
        assert local(f"{bucket.root}/big.bin") == path

    def test_results_of_a_run_go_back_to_it(self, home):
        put(home, {"experiment.json": b"{}"})
        here = local(home)
        with publishing_back(here):
            write(here, {"eval/test/metrics.json": b"{}"})
        assert "eval/test/metrics.json" in [f.name for f in Source(home, FetchOptions()).files("", lambda _: True)[0]]

    def test_where_nothing_can_be_written_results_stay_here(self, web):
        web.files = {"run/experiment.json": b"{}"}
        here = local(f"{web.url}/run")
        said = []
        with watched_by(Onlooker(say=said.append)), publishing_back(here):
            write(here, {"report.html": b"<html>"})
        assert said == [f"{web.url}/run: can only be read. The local copy is complete: {here}"]

    def test_errors_speak_of_the_url(self, home):
        put(home, DATASET)
        here = local(home)
        with pytest.raises(FormatError, match=rf"^{home}/metadata\.json: is cut short"), told_by_url():
            raise FormatError(f"{here}/metadata.json: is cut short")


class TestFaults:
    def test_transient_faults_are_tried_again(self, home, monkeypatch):
        real, failures = Source.send, {"blocks/a.bin": 2, "metadata.json": 1}

        def flaky(self, path, name):
            if failures.get(name, 0):
                failures[name] -= 1
                raise OSError("503 SlowDown")
            return real(self, path, name)

        monkeypatch.setattr(Source, "send", flaky)
        with published(home, folder=True) as here:
            write(here, DATASET)
        assert len(Source(home, FetchOptions()).files("", lambda _: True)[0]) == len(DATASET)

    def test_what_cannot_be_sent_leaves_no_list_and_loses_nothing(self, home, monkeypatch):
        real = Source.send

        def failing(self, path, name):
            if name == "blocks/b.bin":
                raise OSError("500 InternalError")
            return real(self, path, name)

        with monkeypatch.context() as patched:
            patched.setattr(Source, "send", failing)
            with pytest.raises(TransferError) as caught, published(home, folder=True) as here:
                write(here, DATASET)
        said = str(caught.value)
        assert said.startswith(f"{home}/blocks/b.bin: could not be published: 500 InternalError.")
        assert f"The local copy is complete: {here}\n" in said
        assert [f.name for f in Source(home, FetchOptions()).files("", lambda _: True)[0]] == ["blocks/a.bin"]
        with published(home, folder=True) as here:
            assert tree(here) == DATASET
        assert len(Source(home, FetchOptions()).files("", lambda _: True)[0]) == len(DATASET)

    @pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
    @pytest.mark.parametrize("last", [1, 3])
    def test_killed_in_the_midst(self, bucket, monkeypatch, tmp_path, traffic, last):
        url = f"{bucket.root}/data"
        code = f"""
import os, signal
from voxfield.storage.remote import published
from voxfield.storage.remote.sources import Source
real, sent = Source.send, []
def send(self, path, name):
    if len(sent) == {last}:
        os.kill(os.getpid(), signal.SIGKILL)
    sent.append(name)
    return real(self, path, name)
Source.send = send
files = {DATASET!r}
with published({url!r}, folder=True) as here:
    for name, content in files.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(content)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        lists = [key for key in bucket.names() if key.endswith(".json")]
        assert len(bucket.names()) <= last + 8
        assert not lists or {"data/blocks/a.bin", "data/blocks/b.bin"} <= set(bucket.names())
        before = set(bucket.names())
        with published(url, folder=True) as here:
            assert tree(here) == DATASET
        assert {key.removeprefix("data/"): bucket.read(key) for key in bucket.names()} == DATASET
        # What had arrived is known by its checksum, although nobody could say so.
        assert {line.removeprefix("send ") for line in traffic} == {
            name for name in DATASET if f"data/{name}" not in before
        }

    def test_somebody_elses_work_is_not_overwritten(self, bucket, monkeypatch, tmp_path):
        url = f"{bucket.root}/run"
        with published(url, folder=True) as here:
            write(here, {"experiment.json": b"{}", "log.jsonl": b"1\n"})
        job = published(url, folder=True)
        write(job.__enter__(), {"log.jsonl": b"1\n2\n"})
        bucket.write("run/log.jsonl", b"1\nthree\n")
        with pytest.raises(TransferError, match=r"log\.jsonl: was changed by somebody else"):
            job.__exit__(None, None, None)
        assert bucket.read("run/log.jsonl") == b"1\nthree\n"
        assert (here / "log.jsonl").read_bytes() == b"1\n2\n"

    def test_a_bucket_that_is_not_there(self, bucket):
        for call in (local, lambda url: published(url, folder=True).__enter__()):
            with pytest.raises(TransferError, match=r"^s3://no-such-bucket/x: .*bucket does not exist"):
                call("s3://no-such-bucket/x")

    @pytest.mark.parametrize("name", ["nothing", "nothing.vdb"])
    def test_a_key_that_is_not_there(self, home, name):
        put(home, DATASET)
        with pytest.raises(MissingFileError, match=rf"{home}/{name}: there is nothing there"):
            local(f"{home}/{name}")

    def test_without_credentials(self, bucket, monkeypatch):
        bucket.write("data/secret.bin", b"1")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        with pytest.raises(TransferError, match=r"^s3://.*access is refused .*No credentials were found: set AWS_ACC"):
            local(f"{bucket.root}/data/secret.bin")

    def test_a_profile_that_is_not_there(self, bucket, monkeypatch):
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        with pytest.raises(InputError, match=r"credentials cannot be read \(.*nobody.*Check AWS_PROFILE"):
            local(f"{bucket.root}/x")

    def test_a_bucket_without_permission(self, bucket):
        deny = {
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:PutObject",
            "Resource": f"arn:aws:s3:::{bucket.name}/*",
        }
        bucket.backend.put_bucket_policy(bucket.name, json.dumps({"Statement": [deny]}).encode())
        with pytest.raises(TransferError) as caught, published(f"{bucket.root}/data", folder=True) as here:
            write(here, DATASET)
        said = str(caught.value)
        assert "could not be published: access is refused" in said
        assert "Check what your credentials allow" in said
        assert str(here) in said
        assert bucket.names() == []

    def test_nobody_listens(self, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(TransferError, match=r"s3://bucket/x: cannot be reached"):
            local("s3://bucket/x")
        with pytest.raises(TransferError, match=r"http://127\.0\.0\.1:9/x: cannot be reached"):
            local("http://127.0.0.1:9/x")

    def test_kinds_of_addresses(self):
        with pytest.raises(InputError, match=r"nosuch://: is none that fsspec knows\. Expected an s3://"):
            local("nosuch://b/x")
        with pytest.raises(InputError, match=r"http://h/x: can only be read"):
            published("http://h/x").__enter__()

    def test_a_missing_driver_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "gcsfs", None)
        with pytest.raises(MissingExtraError, match=r'gs:// needs .*pip install "voxfield\[remote\]" gcsfs'):
            local("gs://b/x")

    def test_torn_books_cost_a_comparison(self, tmp_path):
        ledger = Ledger(tmp_path / "ledger.jsonl")
        ledger.note("a", Entry(size=1, modified=2, version="v"))
        with (tmp_path / "ledger.jsonl").open("a") as stream:
            stream.write('{"name": "b", "si')
        again = Ledger(tmp_path / "ledger.jsonl")
        assert set(again.entries) == {"a"}
        again.note("c", Entry(size=1, modified=2, version="v"))
        again.note("a", None)
        assert set(Ledger(tmp_path / "ledger.jsonl").entries) == {"c"}
        for number in range(200):
            again.note("d", Entry(size=number, modified=2, version="v"))
        assert Ledger(tmp_path / "ledger.jsonl").entries["d"].size == 199
        assert len((tmp_path / "ledger.jsonl").read_text().split()) < 30


class TestLive:
    def test_checkpoints_are_published_while_training_goes_on(self, bucket):
        url = f"{bucket.root}/run"
        with contextlib.suppress(FormatError), published(url, folder=True, live=True) as here:
            write(here, {"experiment.json": b"{}", "checkpoints/step-000000001.pt": b"1"})
            self.until(lambda: "run/experiment.json" in bucket.names())
            assert bucket.read("run/checkpoints/step-000000001.pt") == b"1"
            (here / "checkpoints/step-000000001.pt").unlink()
            write(here, {"checkpoints/step-000000002.pt": b"2"})
            self.until(lambda: "run/checkpoints/step-000000001.pt" not in bucket.names())
            write(here, {"checkpoints/step-000000003.pt": b"3"})
            raise FormatError("diverged")
        assert "run/checkpoints/step-000000003.pt" in bucket.names()

    def test_training_survives_a_server_that_is_away(self, bucket, monkeypatch):
        said = []

        def away(self, path, name):
            raise OSError("503 SlowDown")

        with watched_by(Onlooker(say=said.append)), monkeypatch.context() as patched:
            patched.setattr(Source, "send", away)
            with published(f"{bucket.root}/run", folder=True, live=True) as here:
                write(here, {"experiment.json": b"{}", "checkpoints/step-000000001.pt": b"1"})
                self.until(lambda: said)
                patched.undo()
        assert "Training goes on." in said[0]
        assert "run/checkpoints/step-000000001.pt" in bucket.names()

    def test_only_rank_0_publishes(self, bucket):
        with published(f"{bucket.root}/run", folder=True, live=True, leads=False) as here:
            write(here, {"experiment.json": b"{}"})
        assert bucket.names() == []

    def until(self, happened):
        for _ in range(600):
            if happened():
                return
            time.sleep(0.1)
        raise AssertionError("nothing happened")
