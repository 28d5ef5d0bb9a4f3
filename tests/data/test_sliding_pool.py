import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from voxfield.data import sliding_pool
from voxfield.data.image_store import DECODE_THREADS, ImageStore, Picture
from voxfield.data.sliding_pool import AHEAD, SlidingPlan, SlidingPool, choose_pixels
from voxfield.errors import InputError

SIDE = 16
PLAN = SlidingPlan(pictures=6, pictures_to_begin=3, part=0.25, sample_pixels=64, rotate_every=2)
CPU = torch.device("cpu")


@pytest.fixture
def store(tmp_path):
    """12 pictures whose pixels hold (picture, column, row)."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    pictures = []
    for index in range(12):
        path = tmp_path / f"{index}.png"
        array = np.stack([np.full((SIDE, SIDE), index), columns, rows], axis=-1)
        Image.fromarray(array.astype(np.uint8)).save(path)
        pictures.append(Picture(name=path.name, path=path, mask_path=None, size=(SIDE, SIDE), full_size=(SIDE, SIDE)))
    return ImageStore(pictures, channels=3, cache_bytes=1)


@pytest.fixture
def make_pool(store):
    """Pools of ``store`` that are closed in the end."""
    made = []

    def make(plan=PLAN, seed=0):
        made.append(SlidingPool(store, plan, seed=seed, device=CPU))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


def drawn_at(pool, steps, count=64):
    """(picture, column, row, colours) of every step, one tensor."""
    batches = []
    for step in steps:
        assert pool.move_to(step)
        drawn = pool.draw(count, torch.Generator().manual_seed(step))
        places = torch.stack([drawn.image_index, drawn.column, drawn.row], dim=-1)
        batches.append(torch.cat([places, drawn.colour.long()], dim=-1))
    return torch.stack(batches)


def threads_of_pools():
    return [thread for thread in threading.enumerate() if thread.name.startswith("voxfield-decode")]


class TestSamples:
    def test_colours_are_those_of_the_pixels(self, make_pool):
        batches = drawn_at(make_pool(), range(0, 60, 3))
        assert torch.equal(batches[..., :3], batches[..., 3:])

    def test_the_pool_grows_then_slides_one_picture_at_a_time(self, make_pool):
        pool = make_pool()
        before: set[int] = set()
        for turn in range(12):
            pictures = set(drawn_at(pool, [2 * turn], 2000)[..., 0].flatten().tolist())
            assert pictures == set(drawn_at(pool, [2 * turn + 1], 2000)[..., 0].flatten().tolist())
            if turn:
                assert len(pictures - before) == 1 or turn > 6  # a picture may be in twice where two shuffles meet
            if turn < 3:
                assert len(pictures) == 3 + turn
            before = pictures

    def test_pixels_are_drawn_uniformly_over_time(self, make_pool):
        # Past the first lap: every picture is a sample 20 times, each time a quarter of its pixels.
        pool = make_pool(replace(PLAN, rotate_every=1))
        pixels = drawn_at(pool, range(12, 12 + 240), 2000)[..., :3].reshape(-1, 3)
        seen = torch.zeros(12, SIDE, SIDE)
        seen.index_put_(tuple(pixels.T), torch.ones(len(pixels)), accumulate=True)
        assert torch.allclose(seen.sum((1, 2)) / len(pixels), torch.full((12,), 1 / 12), atol=0.01)
        # Which of 20 samples hold a pixel is Bernoulli(1/4): the share of pixels in none of them is 0.75^20 = 0.3 %.
        assert float((seen == 0).float().mean()) < 0.01
        # Halves of the pictures, either way: 480,000 draws in 240 samples of 64 pixels.
        for half in (seen[:, :8], seen[:, :, :8], seen[:, ::2]):
            assert abs(float(half.sum()) / len(pixels) - 0.5) < 0.02

    def test_other_seeds_draw_other_pixels(self, make_pool):
        assert not torch.equal(drawn_at(make_pool(), range(4)), drawn_at(make_pool(seed=1), range(4)))

    def test_where_all_have_a_place_none_is_ever_absent(self, make_pool):
        pool = make_pool(replace(PLAN, pictures=12, pictures_to_begin=12))
        for step in range(0, 60, 2):
            assert len(drawn_at(pool, [step], 2000)[..., 0].unique()) == 12


class TestDeterminism:
    def test_how_long_decoding_takes_changes_nothing(self, make_pool, store, monkeypatch):
        expected = drawn_at(make_pool(), range(40))
        decode, delays = store.decode, np.random.default_rng(0)

        def slow(index):
            time.sleep(float(delays.uniform(0, 0.01)))
            return decode(index)

        monkeypatch.setattr(store, "decode", slow)
        assert torch.equal(drawn_at(make_pool(), range(40)), expected)

    def test_how_many_threads_decode_changes_nothing(self, make_pool, monkeypatch):
        expected = drawn_at(make_pool(), range(40))
        monkeypatch.setattr(sliding_pool, "DECODE_THREADS", 5)
        assert torch.equal(drawn_at(make_pool(), range(40)), expected)

    @pytest.mark.parametrize("step", [1, 7, 30, 39])
    def test_a_resumed_run_draws_what_an_uninterrupted_one_does(self, make_pool, step):
        expected = drawn_at(make_pool(), range(50))
        assert torch.equal(drawn_at(make_pool(), range(step, 50)), expected[step:])

    def test_steps_may_jump(self, make_pool):
        expected = drawn_at(make_pool(), range(50))
        steps = [49, 0, 20, 21, 3]
        assert torch.equal(drawn_at(make_pool(), steps), expected[steps])


class TestThreads:
    def test_pictures_are_decoded_before_they_are_needed(self, make_pool, store, monkeypatch):
        pool = make_pool()
        pool.move_to(0)
        for future in list(pool._coming.values()):
            future.result()
        assert sorted(pool._coming) == [3, 4, 5, 6]
        monkeypatch.setattr(store, "decode", None)
        assert pool.move_to(2 * AHEAD - 1)  # needs nothing more

    def test_no_more_pictures_are_decoded_at_once_than_planned(self, make_pool, store, monkeypatch):
        decode, lock, busy, most = store.decode, threading.Lock(), [0], [0]

        def counting(index):
            with lock:
                busy[0] += 1
                most[0] = max(most[0], busy[0])
            time.sleep(0.002)
            decoded = decode(index)
            with lock:
                busy[0] -= 1
            return decoded

        monkeypatch.setattr(store, "decode", counting)
        drawn_at(make_pool(), range(30))
        assert most[0] <= DECODE_THREADS

    def test_a_broken_picture_met_on_the_way_is_skipped_and_listed(self, make_pool, store, tmp_path):
        pool = make_pool()
        drawn_at(pool, [0])
        (tmp_path / "7.png").write_bytes(b"broken")
        batches = drawn_at(pool, range(30, 90))
        assert torch.equal(batches[..., :3], batches[..., 3:])
        assert 7 not in batches[..., 0]
        assert [failure.path for failure in store.failures] == ["7.png"]

    def test_other_faults_of_a_worker_reach_the_caller_and_leave_no_thread(self, make_pool, store, monkeypatch):
        before = threads_of_pools()
        pool = make_pool()
        drawn_at(pool, [0])

        def fail(index):
            raise RuntimeError("a fault of the decoder")

        monkeypatch.setattr(store, "decode", fail)
        with pytest.raises(RuntimeError, match="a fault of the decoder"):
            drawn_at(pool, range(1, 30))
        pool.close()
        assert threads_of_pools() == before

    def test_close_ends_what_is_under_way(self, make_pool, store, monkeypatch):
        before = threads_of_pools()
        pool = make_pool()
        gate, decode = threading.Event(), store.decode
        drawn_at(pool, [0])

        def waiting(index):
            gate.wait(10)
            return decode(index)

        monkeypatch.setattr(store, "decode", waiting)
        drawn_at(pool, [2])
        with ThreadPoolExecutor(1) as other:
            closing = other.submit(pool.close)
            gate.set()
            closing.result(10)
        assert threads_of_pools() == before
        assert torch.equal(drawn_at(pool, [11]), drawn_at(make_pool(), [11]))

    def test_drawing_before_moving_is_an_error(self, make_pool):
        with pytest.raises(InputError, match="move to a step"):
            make_pool().draw(1, torch.Generator())


class TestPlan:
    @staticmethod
    def store_of(count, size, cache_bytes, **changes):
        picture = Picture(name="x", path=Path("x.jpg"), mask_path=None, size=size, full_size=size)
        return ImageStore([replace(picture, **changes)] * count, channels=3, cache_bytes=cache_bytes)

    @pytest.mark.parametrize("count", [2, 20, 300, 3000])
    @pytest.mark.parametrize("size", [(5784, 8660), (1446, 2165), (800, 800), (3, 5)])
    @pytest.mark.parametrize("cache", [2 * 10**8, 4 * 10**9])
    def test_samples_and_pictures_under_decoding_stay_within_the_cache(self, count, size, cache):
        store = self.store_of(count, size, cache)
        plan = SlidingPlan.within_cache(store)
        samples = (plan.pictures + AHEAD) * plan.sample_pixels * 7
        decoding = 2 * 8 * size[0] * size[1]
        assert samples <= max(cache - decoding, cache / 2)
        assert 1 <= plan.pictures_to_begin <= plan.pictures <= count
        assert 0 < plan.part <= 1
        assert plan.part == 1 or samples > 0.9 * max(cache - decoding, cache / 2)

    def test_8k_pictures_by_the_hundred_are_mixed_in_4_gigabytes(self):
        plan = SlidingPlan.within_cache(self.store_of(1000, (5784, 8660), 4 * 10**9))
        assert plan.pictures >= 100
        assert plan.pictures_to_begin >= 16
        assert plan.rotate_every == 25

    def test_memory_is_what_the_plan_says(self, make_pool):
        pool = make_pool()
        assert pool.nbytes == (6 + AHEAD) * 64 * 7

    def test_a_tiny_cache_still_mixes_pictures(self):
        plan = SlidingPlan.within_cache(self.store_of(100, (5784, 8660), 1))
        assert plan.pictures == 16
        assert plan.part == 1 / 512

    def test_costs_are_those_of_the_files(self):
        reduced = self.store_of(100, (723, 1082), 10**8, full_size=(5784, 8660))
        assert SlidingPlan.within_cache(reduced).rotate_every == 25
        copies = self.store_of(100, (723, 1082), 10**8, full_size=(5784, 8660), reduced_copy=True)
        assert SlidingPlan.within_cache(copies).rotate_every == 1

    def test_a_wish_for_the_turns_is_followed(self):
        store = self.store_of(100, (5784, 8660), 10**9)
        assert SlidingPlan.within_cache(store, rotate_every=3).rotate_every == 3


class TestChoosePixels:
    @pytest.mark.parametrize("part", [1e-9, 0.01, 0.37, 1.0])
    @pytest.mark.parametrize("count", [1, 63, 1000])
    def test_as_many_as_asked_for_in_order(self, count, part):
        chosen = choose_pixels(count, None, part=part, seed=3)
        assert len(chosen) == max(1, int(part * count))
        assert chosen.min() >= 0
        assert chosen.max() < count
        assert (np.diff(chosen) >= 0).all()

    def test_all_of_them(self):
        assert choose_pixels(5000, None, part=1.0, seed=1).tolist() == list(range(5000))

    def test_masks_leave_valid_ones_only(self, monkeypatch):
        monkeypatch.setattr(sliding_pool, "_MASK_STRETCH", 100)
        mask = np.random.default_rng(0).random(1234) < 0.3
        mask[300:520] = False
        assert choose_pixels(1234, mask, part=1.0, seed=1).tolist() == np.flatnonzero(mask).tolist()
        chosen = choose_pixels(1234, mask, part=0.5, seed=2)
        assert len(chosen) == int(0.5 * mask.sum())
        assert mask[chosen].all()
        assert len(choose_pixels(1234, np.zeros(1234, bool), part=0.5, seed=2)) == 0

    def test_every_valid_pixel_is_as_likely(self):
        mask = np.arange(50) % 5 != 0
        counts = np.zeros(50)
        for seed in range(4000):
            np.add.at(counts, choose_pixels(50, mask, part=0.3, seed=seed), 1)
        assert (counts[~mask] == 0).all()
        # 12 of 40: 1,200 times each, standard deviation below 29.
        assert np.abs(counts[mask] - 1200).max() < 4.5 * 29
