"""What Linux's control groups leave a process of the machine's memory: containers and batch systems bound it so.

Source: https://docs.kernel.org/admin-guide/cgroup-v2.html, "Memory Interface Files"; version 1 has others of the same
meaning.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

_MOUNTED: Final = Path("/sys/fs/cgroup")
_OWN: Final = Path("/proc/self/cgroup")
_NO_LIMIT: Final = 1 << 60
"""Version 1 says a number near 2^63 where there is no limit."""


def memory_left(own: Path = _OWN, mounted: Path = _MOUNTED) -> int | None:
    """Bytes that this process's control groups could still take; None where none of them is limited.

    What files occupy of memory counts as free: the kernel gives it up when it is asked for more.

    Args:
        own: says which groups the process is in.
        mounted: where the groups' files are.
    """
    left = [one for group in _groups(own, mounted) if (one := _left_in(group)) is not None]
    return min(left, default=None)


def _groups(own: Path, mounted: Path) -> Iterator[Path]:
    """Folders of the groups that the process is in, and of those around them. A container sees its own as the root."""
    for line in _text(own).splitlines():
        fields = line.split(":", 2)
        if len(fields) != 3 or ".." in fields[2] or not (fields[1] == "" or "memory" in fields[1].split(",")):
            continue
        top = mounted if fields[1] == "" else mounted / "memory"
        inner = top / fields[2].lstrip("/")
        yield from (folder for folder in (inner, *inner.parents) if folder == top or top in folder.parents)


def _left_in(group: Path) -> int | None:
    """Bytes that one group could still take."""
    for limit_name, used_name, prefix in (
        ("memory.max", "memory.current", ""),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        limit, used = (_text(group / name).strip() for name in (limit_name, used_name))
        if limit.isdecimal() and used.isdecimal() and int(limit) < _NO_LIMIT:
            held = dict(line.split(" ", 1) for line in _text(group / "memory.stat").splitlines() if " " in line)
            files = [held.get(f"{prefix}{name}", "0").strip() for name in ("inactive_file", "active_file")]
            return max(0, int(limit) - int(used) + sum(int(one) for one in files if one.isdecimal()))
    return None


def _text(path: Path) -> str:
    """A file's text; nothing where it is not there."""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
