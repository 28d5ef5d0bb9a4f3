"""Painting coarse first, within the time that is given."""

from dataclasses import replace

import pytest
import torch

from voxfield.viewer.painter import LEAST_ROWS, Painter
from voxfield.viewer.subjects import Picture, Shot

RAY_SECONDS = 2e-5


class Clock:
    """Time passes only as rays are looked at."""

    def __init__(self, subject) -> None:
        self._subject = subject
        self.added = 0.0

    def __call__(self) -> float:
        return self._subject.rays_seen * RAY_SECONDS + self.added


@pytest.fixture
def pictures() -> list[tuple[Picture, bool]]:
    return []


@pytest.fixture
def painter(sphere, pictures) -> Painter:
    return Painter(sphere, lambda *made: pictures.append(made), background=torch.ones(3), clock=Clock(sphere))


def rows(pictures) -> list[int]:
    return [made.rgb.shape[0] for made, _ in pictures]


def test_nothing_is_painted_until_something_is_wanted(painter: Painter, pictures) -> None:
    assert not painter.busy
    assert painter.work(1.0) is False
    assert pictures == []


def test_pictures_become_finer_up_to_what_is_wanted(painter: Painter, pictures, shot: Shot) -> None:
    painter.want(shot, 400)
    assert painter.hurried
    assert painter.work(1e9) is False
    assert rows(pictures) == sorted(rows(pictures))
    assert rows(pictures)[-1] == 400
    assert [last for _, last in pictures] == [False] * (len(pictures) - 1) + [True]
    # All that came before the last cost a small part of it.
    assert sum(size**2 for size in rows(pictures)[:-1]) < 0.3 * 400**2


def test_first_pictures_follow_the_speed_of_rays(painter: Painter, pictures, shot: Shot) -> None:
    for turn in range(12):
        painter.want(replace(shot, fov=0.8 + 0.01 * turn), 2000)
        painter.work(1e-9)
        while painter.hurried:
            painter.work(1e-9)
    # 0.06 s of rays that take 20 us each, twice as many columns as rows.
    assert rows(pictures)[-1] == pytest.approx((0.06 / RAY_SECONDS / 2) ** 0.5, rel=0.1)


def test_work_keeps_to_its_time(painter: Painter, sphere, shot: Shot) -> None:
    painter.want(shot, 2000)
    painter.work(0.5)
    before = sphere.rays_seen
    painter.work(0.1)
    assert 0.1 <= (sphere.rays_seen - before) * RAY_SECONDS <= 0.1 + 0.11


def test_a_moved_camera_ends_a_fine_picture_but_not_a_first_one(painter: Painter, pictures, shot: Shot) -> None:
    painter.want(shot, 2000)
    painter.work(1e-9)
    painter.want(replace(shot, mode="opacity"), 2000)
    while not pictures:
        painter.work(1e-9)
    # The first was not given up, though the camera moved meanwhile.
    first = pictures[0][0]
    assert int(first.rgb[0, 0, 0]) == 255
    while len(pictures) < 2:
        painter.work(1e-9)
    assert int(pictures[1][0].rgb[0, 0, 0]) == 0
    count = len(pictures)
    painter.work(0.05)
    painter.want(shot, 2000)
    while len(pictures) == count:
        painter.work(1e-9)
    assert pictures[-1][0].rgb.shape[0] < 200
    assert int(pictures[-1][0].rgb[0, 0, 0]) == 255


def test_pictures_that_would_take_too_long_are_left_out(painter: Painter, pictures, shot: Shot) -> None:
    painter.most_seconds = 0.4
    for _ in range(3):
        painter.want(shot, 2000)
        painter.work(1e9)
    assert rows(pictures)[-1] == pytest.approx((0.4 / RAY_SECONDS / 2) ** 0.5, rel=0.15)
    assert pictures[-1][1]


def test_painting_again_repeats_the_finest_picture_only(painter: Painter, pictures, shot: Shot) -> None:
    painter.again()
    assert not painter.busy
    painter.want(shot, 300)
    painter.again()
    painter.work(1e9)
    count = len(pictures)
    painter.again()
    painter.work(1e9)
    assert rows(pictures)[count:] == [300]


def test_a_canvas_of_few_rows_is_painted_in_one_go(painter: Painter, pictures, shot: Shot) -> None:
    painter.want(shot, 0)
    painter.work(1e9)
    painter.want(shot, LEAST_ROWS - 1)
    painter.work(1e9)
    assert rows(pictures) == [1, LEAST_ROWS - 1]


def test_a_screenshot_is_painted_once_and_in_full(painter: Painter, pictures, shot: Shot) -> None:
    painter.want(shot, 120, coarse_first=False)
    painter.work(1e9)
    assert rows(pictures) == [120]


def test_what_is_forgotten_is_not_painted(painter: Painter, pictures, shot: Shot) -> None:
    painter.want(shot, 2000)
    painter.work(1e-9)
    painter.forget()
    assert painter.work(1e9) is False
    assert pictures == []


def test_a_fault_of_the_subject_reaches_the_caller_and_can_be_got_over(painter: Painter, sphere, shot: Shot) -> None:
    painter.want(shot, 100)
    sphere.fault = RuntimeError("gone")
    with pytest.raises(RuntimeError, match="gone"):
        painter.work(1.0)
    painter.forget()
    sphere.fault = None
    painter.want(shot, 100)
    assert painter.work(1e9) is False
