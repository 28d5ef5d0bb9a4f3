"""Where a page begins and comes back to, without a browser: what it is told is looked at."""

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.viewer.moving import move

from voxfield.geometry.bounds import Bounds
from voxfield.geometry.camera import Cameras
from voxfield.viewer.standpoint import Beginning, Standpoint

pytest.importorskip("viser", reason="needs viser")
BEGINNING = Beginning((1.0, -2.0, 0.5), (0.0, 0.0, 0.25), 0.8)


class Client:
    """A page whose camera stands somewhere."""

    def __init__(self, position: tuple[float, ...], look_at: tuple[float, ...] = (0.0, 0.0, 0.0)) -> None:
        self.told = list[Any]()
        self.camera = SimpleNamespace(position=position, look_at=look_at, up_direction=(0.0, 0.0, 1.0), fov=1.3)
        self._websock_connection = SimpleNamespace(queue_message=self._hear)

    def atomic(self) -> Any:
        return nullcontext()

    def _hear(self, message: Any) -> None:
        if message.initial:
            self.told.append(message)
        else:
            move(self.camera, message)

    def began(self) -> dict[str, tuple[float, ...]]:
        """Where the page thinks that it began."""
        names = {type(message).__name__: message for message in self.told}
        return {
            "position": names["SetCameraPositionMessage"].position,
            "look_at": names["SetCameraLookAtMessage"].look_at,
            "up": names["SetCameraUpDirectionMessage"].position,
        }


def test_a_new_page_is_put_where_pages_begin_and_one_that_comes_back_is_left_alone() -> None:
    new, back = Client((3.0, 3.0, 3.0)), Client((0.5, 4.0, 1.0))
    Standpoint(new, BEGINNING)
    assert (new.camera.position, new.camera.look_at, new.camera.fov) == ((1.0, -2.0, 0.5), (0.0, 0.0, 0.25), 0.8)
    standpoint = Standpoint(back, BEGINNING)
    assert (back.camera.position, back.camera.fov) == ((0.5, 4.0, 1.0), 1.3)
    standpoint.begin()
    assert back.camera.position == (1.0, -2.0, 0.5)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What is to be done after a while, here when the test asks for it."""
    waiting: list[Callable[[], None]] = []

    class Timer:
        def __init__(self, _seconds: float, call: Callable[..., None], arguments: Sequence[Any] = ()) -> None:
            self._call = lambda: call(*arguments)

        def start(self) -> None:
            waiting.append(self._call)

        def cancel(self) -> None:
            if self._call in waiting:
                waiting.remove(self._call)

    monkeypatch.setattr(threading, "Timer", Timer)
    return waiting


def test_a_new_page_that_stays_where_it_began_comes_back_there(at_once: list[Callable[[], None]]) -> None:
    client = Client((3.0, 3.0, 3.0))
    standpoint = Standpoint(client, BEGINNING)
    standpoint.rest()
    at_once.pop()()
    assert client.began()["position"] == BEGINNING.position


def test_a_page_that_stays_comes_back_to_where_it_stands(at_once: list[Callable[[], None]]) -> None:
    client = Client((0.5, 4.0, 1.0))
    standpoint = Standpoint(client, BEGINNING)
    for _ in range(3):
        # Pictures of a training come again and again.
        standpoint.rest()
    assert (len(at_once), client.told) == (1, [])
    at_once.pop()()
    assert client.began() == {"position": (0.5, 4.0, 1.0), "look_at": (0.0, 0.0, 0.0), "up": (0.0, 0.0, 1.0)}
    client.told.clear()
    standpoint.rest()
    assert not at_once, "once is enough"
    client.camera.position = (0.0, 4.0, 2.0)
    standpoint.rest()
    at_once.pop()()
    assert client.began()["position"] == (0.0, 4.0, 2.0)


def test_nothing_is_said_to_a_page_that_goes_on_or_left(at_once: list[Callable[[], None]]) -> None:
    client = Client((0.5, 4.0, 1.0))
    standpoint = Standpoint(client, BEGINNING)
    standpoint.rest()
    due = at_once[0]
    client.camera.position = (0.5, 4.0, 1.1)
    due()
    assert not client.told, "it moved"
    at_once.clear()
    standpoint.rest()
    client.camera.position = (0.0, 4.0, 2.0)
    standpoint.rest()
    assert len(at_once) == 1, "the last place alone"
    standpoint.leave()
    assert (at_once, client.told, standpoint.kept) == ([], [], None)


def test_a_page_that_begins_anew_is_not_turned_back(at_once: list[Callable[[], None]]) -> None:
    client = Client((0.5, 4.0, 1.0))
    standpoint = Standpoint(client, BEGINNING)
    standpoint.rest()
    due = at_once[0]
    standpoint.begin()
    assert not at_once
    # It was under way already, and the page has not heard yet: it says once more where it stood.
    client.camera.position, client.camera.look_at = (0.5, 4.0, 1.0), (0.0, 0.0, 0.0)
    due()
    standpoint.rest()
    at_once.pop()()
    assert client.told == []
    client.camera.position, client.camera.look_at = BEGINNING.position, BEGINNING.look_at
    standpoint.rest()
    at_once.pop()()
    assert client.began()["position"] == BEGINNING.position


def test_a_page_that_says_where_it_is_while_it_is_told_to_go_goes_all_the_same() -> None:
    import viser

    client, there = Client((0.5, 4.0, 1.0), BEGINNING.look_at), np.array(BEGINNING.look_at)
    client.camera = camera = viser.CameraHandle(client)
    told = dict[str, Any]()

    def speaks_up() -> None:
        camera._state.position, camera._state.look_at = np.array([0.5, 4.0, 1.0]), there
        camera._state.up_direction, camera._state.update_timestamp = np.array([0.0, 0.0, 1.0]), 1.0

    def hear(message: Any) -> None:
        told[type(message).__name__] = message
        speaks_up()

    client._websock_connection.queue_message = hear
    speaks_up()
    standpoint = Standpoint(client, BEGINNING)
    camera.position, camera.look_at = BEGINNING.position, BEGINNING.look_at
    assert told["SetCameraLookAtMessage"].look_at != BEGINNING.look_at, "viser's own setters leave it half on its way"
    standpoint.begin()
    assert told["SetCameraPositionMessage"].position == BEGINNING.position
    assert told["SetCameraLookAtMessage"].look_at == BEGINNING.look_at
    assert told["SetCameraUpDirectionMessage"].position == (0.0, 0.0, 1.0)
    assert told["SetCameraFovMessage"].fov == BEGINNING.fov
    assert not any(message.initial for message in told.values())


def test_pages_begin_before_all_of_the_subject_or_at_the_first_photograph(around: Cameras) -> None:
    bounds = Bounds(minimum=(0.0, 0.0, 0.0), maximum=(2.0, 4.0, 2.0))
    whole = Beginning.of(bounds, None)
    assert whole.look_at == (1.0, 2.0, 1.0)
    assert np.linalg.norm(np.subtract(whole.position, whole.look_at)) > 4
    assert whole.fov is None
    taken = Beginning.of(bounds, around)
    assert taken.position == pytest.approx(around.origins[0].tolist())
    ahead = torch.tensor(taken.look_at) - torch.tensor(taken.position)
    torch.testing.assert_close(ahead / ahead.norm(), around.forward[0])
    assert taken.fov == pytest.approx(2 * np.arctan(30 / 60))
