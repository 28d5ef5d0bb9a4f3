"""Transfers in tests do not wait between attempts."""

import pytest

from voxfield.storage.remote import transfers


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(transfers, "FIRST_PAUSE", 0.01)
