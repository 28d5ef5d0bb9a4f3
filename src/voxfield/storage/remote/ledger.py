"""What a local copy knows of its remote original: which version each file was when both were last the same."""

import json
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from voxfield.storage.atomic import write_text
from voxfield.storage.remote.publish import LocalFile
from voxfield.storage.remote.sources import RemoteFile


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file when it was last the same here and there."""

    size: int
    """Bytes."""
    modified: int
    """When the local file was changed, nanoseconds."""
    version: str
    """What the source called its version; empty before it had one."""
    sending: str = ""
    """ETag or MD5 of what was on its way there since. A process that is killed cannot say whether it arrived."""

    def is_of(self, file: LocalFile) -> bool:
        """Whether the local file is as it was then."""
        return (self.size, self.modified) == (file.size, file.modified)

    def knows(self, file: RemoteFile) -> bool:
        """Whether the remote file is as it was then, or as it was sent from here."""
        theirs = {file.version.strip('"'), file.md5} - {"", None}
        return bool(theirs & {self.version.strip('"'), self.sending})


class Ledger:
    """The entries of a local copy, one JSON line each; later lines replace earlier ones.

    Lines are only added while files are transferred, so that a process may be killed at any time: a line that is cut
    short costs no more than a comparison by checksums.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.entries: dict[str, Entry] = {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for line in lines:
            try:
                values = json.loads(line)
                name = values.pop("name")
                self._take(name, Entry(**values) if values else None)
            except (ValueError, TypeError, AttributeError, KeyError):
                continue
        if len(lines) > 2 * len(self.entries) + 100:
            write_text(path, "".join(_line(name, entry) for name, entry in self.entries.items()))

    def note(self, name: str, entry: Entry | None) -> None:
        """Replace what is known of a file; None: it is neither here nor there any more."""
        with self._lock, self._path.open("a", encoding="utf-8") as stream:
            self._take(name, entry)
            # A line that a killed process left unfinished ends here.
            stream.write("\n" + _line(name, entry))

    def agree(self, local: LocalFile, remote: RemoteFile) -> None:
        """Both are the same now."""
        self.note(local.name, Entry(size=local.size, modified=local.modified, version=remote.version))

    def _take(self, name: str, entry: Entry | None) -> None:
        if entry is None:
            self.entries.pop(name, None)
        else:
            self.entries[name] = entry


def _line(name: str, entry: Entry | None) -> str:
    return json.dumps({"name": name, **({} if entry is None else asdict(entry))}) + "\n"
