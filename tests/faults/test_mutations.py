"""Spoiled files of every format: each is read, or refused with an error of ours, in bounded time and memory.

The quick test reads some 1,500, the slow one 100,000, or ``VOXFIELD_MUTATIONS``.
"""

import os

import pytest

COUNT = int(os.environ.get("VOXFIELD_MUTATIONS", "100000"))


def said_of(tally):
    return "\n".join(f"{one.specimen} #{one.number} {one.kind}: {one.said}" for one in tally.findings)


@pytest.mark.timeout(600)
def test_some_spoiled_files(mutations, tmp_path):
    tally = mutations.campaign(mutations.orders_for(1500), tmp_path)
    assert not tally.findings, said_of(tally)
    # Spoiled, but not beyond recognition: most formats let some of them through.
    assert sum(tally.read.values()) > 200
    assert sum(tally.refused.values()) > 700


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_hundred_thousand_spoiled_files(mutations, tmp_path, capsys):
    # Numbers beyond those of the quick test.
    tally = mutations.campaign(mutations.orders_for(COUNT, first=10_000), tmp_path)
    with capsys.disabled():
        print(f"\n{tally.table()}")
    assert not tally.findings, said_of(tally)


def test_the_campaign_sees_what_it_looks_for(mutations, tmp_path, monkeypatch):
    """Readers that do harm, in place of the real ones."""
    (tmp_path / "home").mkdir()
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "specimens.py").write_text(HARMFUL)
    worker = (mutations.HOME / "mutations.py").read_text().replace("MOST_SECONDS = 5.0", "MOST_SECONDS = 1.0")
    (bad / "mutations.py").write_text(worker)
    monkeypatch.setattr(mutations, "HOME", bad)
    kinds = ("raises", "crashes", "spins", "grows", "leaks", "runs", "fine")
    tally = mutations.campaign([(f"x/{kind}", 0, 1) for kind in kinds], tmp_path / "home")
    found = {one.specimen.removeprefix("x/"): one.kind for one in tally.findings if one.number >= 0}
    assert found == {
        "raises": "exception",
        "crashes": "crash",
        "spins": "hang",
        "grows": "memory",
        "leaks": "escape",
        "runs": "escape",
    }
    assert tally.read["x"] == 1


HARMFUL = """
import os, subprocess
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from voxfield.errors import FormatError

@dataclass
class Specimen:
    format: str
    name: str
    read: object
    refused: bool = False
    def write(self, home):
        (home / "a").write_bytes(b"good")
        return home / "a"
    def spoil(self, raw, draw):
        return b"bad"

def only_if_bad(do):
    def read(path):
        if path.read_bytes() == b"bad":
            do(path)
    return read

def spin(path):
    while True:
        pass

def grow(path):
    try:
        np.ones(1 << 30)
    except MemoryError as error:
        raise FormatError("needs more memory than there is") from error

SPECIMENS = [Specimen("x", name, only_if_bad(do)) for name, do in {
    "raises": lambda path: 1 / 0,
    "crashes": lambda path: os.abort(),
    "spins": spin,
    "grows": grow,
    "leaks": lambda path: (path.parent.parent / "outside" / "secret.png").read_bytes(),
    "runs": lambda path: subprocess.run(["true"]),
    "fine": lambda path: None,
}.items()]
"""
