"""The client that looks at the viewer, and what it times."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from voxfield.storage.vdb import read_vdb
from voxfield.viewer.viewer import Viewer
from voxfield.viewer.volume_subject import volume_subject

pytest.importorskip("viser", reason="needs viser")
RADIUS = 10


@pytest.fixture
def viewing(benchmark) -> ModuleType:
    return benchmark("viewing")


@pytest.fixture
def viewer(viewing: ModuleType, tmp_path: Path) -> Iterator[Viewer]:
    """A shell, looked at."""
    viewing.write_shell(tmp_path / "shell.vdb", RADIUS)
    subject = volume_subject(tmp_path / "shell.vdb")
    assert subject is not None
    with Viewer(subject, name="shell", port=0) as shown:
        shown.start()
        yield shown


def test_the_shell_has_as_many_voxels_as_it_says(viewing: ModuleType, tmp_path: Path) -> None:
    active = viewing.write_shell(tmp_path / "shell.vdb", RADIUS)
    assert active == pytest.approx(16 * math.pi * RADIUS**2, rel=0.05)
    (grid,) = read_vdb(tmp_path / "shell.vdb")
    assert (grid.name, grid.grid_class, grid.volume.active_count) == ("density", "fog volume", active)


def test_a_client_sees_what_a_page_would(viewing: ModuleType, viewer: Viewer) -> None:
    assert b"<html" in viewing.fetch(viewer.url)
    with viewing.Client(viewer.url, width=80, height=60) as client:
        client.look()
        first = client.wait()
        assert first.width * 3 == pytest.approx(first.height * 4, abs=4)
        assert client.wait(lambda seen: seen.height == 60).width == 80
        # The viewer has told where to begin.
        begin = viewer.beginning
        np.testing.assert_allclose(client.position, begin.position)
        np.testing.assert_allclose(client.look_at, begin.look_at)

        away = np.linalg.norm(client.position - client.look_at)
        pictures, rested = client.turn(0.3)
        assert all(seen.at <= rested for seen in pictures)
        assert np.linalg.norm(client.position - client.look_at) == pytest.approx(away)
        moved = np.linalg.norm(client.position - np.array(begin.position))
        assert moved == pytest.approx(2 * math.sin(math.pi / 3) * np.linalg.norm(client.position[:2]), rel=1e-6)
        client.wait(lambda seen: seen.at > rested and seen.height == 60)
        (session,) = viewer.sessions()
        # Whole pictures of places on the way are still coming; the viewer hears of the last one when it gets to it.
        end = time.monotonic() + viewing.PATIENCE
        while not np.allclose(session.client.camera.position, client.position) and time.monotonic() < end:
            time.sleep(0.01)
        np.testing.assert_allclose(session.client.camera.position, client.position)


def test_a_camera_looks_ahead_with_its_head_up(viewing: ModuleType) -> None:
    import viser.transforms

    for ahead in ([1.0, 2.0, -0.5], [0.0, 0.0, -1.0]):
        turn = viser.transforms.SO3(np.array(viewing.quaternion_towards(np.array(ahead)))).as_matrix()
        np.testing.assert_allclose(turn[:, 2], np.array(ahead) / np.linalg.norm(ahead), atol=1e-9)
        assert turn[2, 0] == pytest.approx(0.0, abs=1e-9)
        assert turn[2, 1] <= 1e-9


@pytest.mark.slow
def test_a_volume_is_opened_by_a_process_of_its_own(viewing: ModuleType, tmp_path: Path) -> None:
    active = viewing.write_shell(tmp_path / "shell.vdb", RADIUS)
    rows = viewing.of_volume(tmp_path / "shell.vdb", active)
    first, reading, whole, program = [row["value"] for row in rows]
    assert 0 < reading < first < whole
    assert first < program
    assert [row["bar"] for row in rows] == [viewing.VOLUME, None, None, None]
