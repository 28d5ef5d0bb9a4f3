import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from voxfield.data.image_store import ImageStore, Picture
from voxfield.errors import FormatError, InputError

SIZE = (8, 6)
BYTES = 8 * 6 * 3


@pytest.fixture
def pictures(tmp_path):
    made = []
    for index in range(6):
        path = tmp_path / f"{index}.png"
        Image.fromarray(np.full((6, 8, 3), index * 40, dtype=np.uint8)).save(path)
        made.append(Picture(name=path.name, path=path, mask_path=None, size=SIZE, full_size=SIZE))
    return made


def count_decodes(store, monkeypatch):
    decoded = []
    original = store.decode

    def counting(index):
        decoded.append(index)
        return original(index)

    monkeypatch.setattr(store, "decode", counting)
    return decoded


def test_pictures_are_read_when_asked_for(pictures):
    store = ImageStore(pictures, channels=3, cache_bytes=10**6)
    assert len(store) == 6
    assert store.shape(2) == (6, 8, 3)
    assert store.read(2).unique().tolist() == [80]
    assert store.read(2).dtype == torch.uint8
    assert store.mask(2) is None
    assert store.total_bytes == 6 * BYTES


def test_the_cache_keeps_the_latest_within_its_bound(pictures, monkeypatch):
    store = ImageStore(pictures, channels=3, cache_bytes=2 * BYTES)
    decoded = count_decodes(store, monkeypatch)
    for index in (0, 1, 0, 2, 0, 1):
        store.read(index)
    # 2 pushed out 1, the least recently used; 0 stayed.
    assert decoded == [0, 1, 2, 1]


def test_one_picture_larger_than_the_cache_still_reads(pictures):
    store = ImageStore(pictures, channels=3, cache_bytes=1)
    for index in range(6):
        assert int(store.read(index)[0, 0, 0]) == 40 * index


def test_broken_pictures_are_recorded_and_the_rest_is_served(pictures):
    pictures[3].path.write_bytes(b"nonsense")
    store = ImageStore(pictures, channels=3, cache_bytes=10**6)
    with pytest.raises(FormatError, match=r"3\.png"):
        store.read(3)
    assert [failure.path for failure in store.failures] == ["3.png"]
    assert store.read(4).unique().tolist() == [160]


def test_many_are_decoded_once_each_and_broken_ones_reported(pictures):
    pictures[1].path.unlink()
    store = ImageStore(pictures, channels=3, cache_bytes=1)
    came, lock = {}, threading.Lock()

    def receive(position, decoded):
        with lock:
            came[position] = None if decoded is None else int(decoded[0][0, 0, 0])

    store.decode_many([5, 1, 0], receive)
    assert came == {0: 200, 1: None, 2: 0}


def test_threads_may_read_at_once(pictures):
    store = ImageStore(pictures, channels=3, cache_bytes=3 * BYTES)
    with ThreadPoolExecutor(4) as pool:
        values = list(pool.map(lambda index: int(store.read(index % 6)[0, 0, 0]), range(200)))
    assert values == [40 * (index % 6) for index in range(200)]
    assert store._cached_bytes == sum(image.numel() for image, _ in store._cache.values()) <= 3 * BYTES


def test_masks_are_read_with_their_pictures(pictures, tmp_path):
    from dataclasses import replace

    mask = np.zeros((6, 8), dtype=np.uint8)
    mask[:, 4:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    pictures[0] = replace(pictures[0], mask_path=tmp_path / "mask.png")
    store = ImageStore(pictures, channels=3, cache_bytes=10**6)
    assert store.has_masks
    assert store.mask(0).tolist() == (mask > 0).tolist()
    assert store.mask(1) is None


def test_pictures_in_memory_are_served_as_they_are():
    image = torch.zeros(4, 5, 4, dtype=torch.uint8)
    store = ImageStore.from_tensors([image, image + 1], names=["a", "b"])
    assert store.read(1).unique().tolist() == [1]
    assert store.channels == 4
    assert not store.has_masks


def test_wrong_tensors_are_named():
    with pytest.raises(InputError, match="same C"):
        ImageStore.from_tensors([torch.zeros(2, 2, 3, dtype=torch.uint8), torch.zeros(2, 2, 4, dtype=torch.uint8)])
    with pytest.raises(InputError, match="dtype"):
        ImageStore.from_tensors([torch.zeros(2, 2, 3)])
    with pytest.raises(InputError, match="masks"):
        ImageStore.from_tensors([torch.zeros(2, 2, 3, dtype=torch.uint8)], masks=[torch.zeros(3, 2, dtype=torch.bool)])
