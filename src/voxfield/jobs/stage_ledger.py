"""Which stages of a job are done, and from what: so that a second run does only what is missing.

Stages follow one another. Each has a key, a digest of all that its result depends on, the keys before it included; a
stage whose key differs from the recorded one is stale, and so is every stage after it.
"""

import json
from pathlib import Path
from typing import Any

from voxfield.errors import FormatError
from voxfield.storage.atomic import write_json

_SCHEMA = 1


class StageLedger:
    """The stages of a job, kept in a JSON file that is rewritten at every change.

    Args:
        file: where it is kept; need not exist.

    Raises:
        FormatError: the file is there but is no ledger.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._entries: dict[str, dict[str, Any]] = {}
        if not file.exists():
            return
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            entries = content["stages"]
            known = content["schema"] == _SCHEMA and all(
                isinstance(entry["key"], str) and isinstance(entry.get("result", {}), dict)
                for entry in entries.values()
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            known, entries = False, {}
        if not known:
            raise FormatError(f"{file}: is damaged or of another version. Remove the folder above it and start again.")
        self._entries = entries

    @property
    def started(self) -> bool:
        """Whether any stage was begun."""
        return bool(self._entries)

    def result(self, stage: str, key: str) -> dict[str, Any] | None:
        """What a stage that is done with this key gave; None when it is to be done."""
        entry = self._entries.get(stage)
        return entry.get("result") if entry is not None and entry["key"] == key else None

    def is_stale(self, stage: str, key: str) -> bool:
        """Whether a stage was begun or done with another key."""
        entry = self._entries.get(stage)
        return entry is not None and entry["key"] != key

    def begin(self, stage: str, key: str) -> bool:
        """Note that a stage is begun; it and the stages recorded after it are no longer done.

        Returns:
            Whether it had been begun with the same key, so that what it left may be continued.
        """
        entry = self._entries.get(stage)
        same = entry is not None and entry["key"] == key
        names = list(self._entries)
        for name in names[names.index(stage) :] if stage in names else []:
            del self._entries[name]
        self._entries[stage] = {"key": key}
        self._write()
        return same

    def finish(self, stage: str, result: dict[str, Any]) -> None:
        """Note what a begun stage gave."""
        self._entries[stage]["result"] = result
        self._write()

    def _write(self) -> None:
        write_json(self.file, {"schema": _SCHEMA, "stages": self._entries})
