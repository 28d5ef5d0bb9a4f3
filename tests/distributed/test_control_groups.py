"""What control groups leave of memory, in folders laid out as the kernel lays out its own."""

from pathlib import Path

import pytest

from voxfield.distributed import devices
from voxfield.distributed.control_groups import memory_left

GB = 10**9


def groups(folder: Path, **contents: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        (folder / name.replace("memory_", "memory.", 1)).write_text(text, encoding="ascii")
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own"
    path.write_text("0::/batch/job\n", encoding="ascii")
    return path


def test_the_tightest_group_counts(tmp_path: Path, own: Path) -> None:
    mounted = groups(tmp_path / "fs", memory_max="max\n", memory_current=str(9 * GB))
    groups(mounted / "batch", memory_max=str(4 * GB), memory_current=str(3 * GB))
    groups(mounted / "batch" / "job", memory_max=str(8 * GB), memory_current=str(1 * GB))
    assert memory_left(own, mounted) == 1 * GB


def test_cached_files_are_free(tmp_path: Path, own: Path) -> None:
    stat = f"anon {GB}\ninactive_file {GB}\nactive_file {GB // 2}\nfile_dirty {GB}\n"
    mounted = groups(tmp_path / "fs")
    groups(mounted / "batch" / "job", memory_max=str(4 * GB), memory_current=str(3 * GB), memory_stat=stat)
    assert memory_left(own, mounted) == 5 * GB // 2


def test_version_1(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("5:cpu,cpuacct:/job\n4:memory:/job\n", encoding="ascii")
    files = {"memory_limit_in_bytes": str(2 * GB), "memory_usage_in_bytes": str(GB)}
    mounted = groups(tmp_path / "fs")
    groups(mounted / "memory" / "job", **files, memory_stat=f"total_inactive_file {GB // 4}\n")
    groups(mounted / "memory", memory_limit_in_bytes=str(2**63 - 4096), memory_usage_in_bytes="0")
    assert memory_left(own, mounted) == 5 * GB // 4


def test_a_container_sees_its_group_as_the_root(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/\n", encoding="ascii")
    mounted = groups(tmp_path / "fs", memory_max=str(GB), memory_current=str(2 * GB))
    assert memory_left(own, mounted) == 0


@pytest.mark.parametrize("text", ["", "nonsense", "0::/../../etc\n", "0::/nowhere\n", "0:cpu:/batch\n", "\xff"])
def test_no_limit_is_known(tmp_path: Path, text: str) -> None:
    own = tmp_path / "own"
    own.write_text(text, encoding="latin-1")
    assert memory_left(own, groups(tmp_path / "fs", memory_max="max", memory_current="7")) is None
    assert memory_left(tmp_path / "absent", tmp_path) is None


def test_devices_have_no_more_than_the_group_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "memory_left", lambda: 12_345)
    assert devices.device_memory(devices.torch.device("cpu")).free == 12_345
