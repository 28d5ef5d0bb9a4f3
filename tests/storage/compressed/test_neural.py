"""Networks in compressed volumes: the same promises, whatever they have learnt."""

import importlib.util
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from voxfield.errors import FormatError, InputError
from voxfield.storage.compressed import CompressedFile, CompressionConfig, read_compressed, write_compressed
from voxfield.storage.compressed import network as networks
from voxfield.storage.vdb import VdbGrid
from voxfield.voxels.sparse import SparseVolume


def neighbour_tests():
    path = Path(__file__).with_name("test_compressed.py")
    spec = importlib.util.spec_from_file_location("compressed_volumes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


compressed = neighbour_tests()
blob, exact_but_values, rewritten = compressed.blob, compressed.exact_but_values, compressed.rewritten


def neural(**options):
    return CompressionConfig(codec="neural", **{"relative_error": 0.02, "steps": 40, **options})


def level_set(size=40):
    axis = np.arange(size) - size / 2
    distance = np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis**2) - size / 3
    return SparseVolume.from_dense(
        np.clip(distance, -3, 3).astype(np.float32), background=3.0, active=np.abs(distance) < 3
    )


@pytest.mark.parametrize("nodes", ["leaf", "lower"])
def test_everything_is_within_the_error_and_topology_exact(tmp_path, nodes):
    vectors = np.stack([blob(20).to_dense(), 2 * blob(20).to_dense(), -blob(20).to_dense()])
    grids = [
        VdbGrid(name="fog", volume=blob(), grid_class="fog volume"),
        VdbGrid(name="surface", volume=level_set(), grid_class="level set"),
        VdbGrid(name="wind", volume=SparseVolume.from_dense(vectors), half=True),
    ]
    reports = write_compressed(tmp_path / "a.vxv", grids, neural(nodes=nodes))
    for grid, again, report in zip(grids, read_compressed(tmp_path / "a.vxv"), reports, strict=True):
        assert report.codec == "neural"
        assert 0 < report.network_bytes < report.nbytes
        assert exact_but_values(grid.volume, again.volume)
        off = np.abs(grid.volume.values.astype(float) - again.volume.values.astype(float))
        assert off.max() == report.largest_error <= report.max_error


def test_a_trained_network_takes_fewer_bytes_than_an_ignorant_one(tmp_path):
    grid = VdbGrid(name="x", volume=level_set(60))
    sizes = [write_compressed(tmp_path / "a.vxv", [grid], neural(steps=steps))[0].nbytes for steps in (1, 150)]
    assert sizes[1] < 0.8 * sizes[0]


def test_parts_are_those_of_the_whole(tmp_path):
    write_compressed(tmp_path / "a.vxv", [VdbGrid(name="x", volume=blob(100))], neural(steps=5, nodes="lower"))
    file = CompressedFile(tmp_path / "a.vxv")
    whole = file.read("x").volume
    wanted = whole.active_voxels()[0][::997]
    assert np.array_equal(file.open("x").values_at(wanted)[0], whole.values_at(wanted)[0])
    low, high = wanted[0] - 5, wanted[0] + 20
    assert np.array_equal(file.read_box("x", low, high).volume.to_dense(low, high), whole.to_dense(low, high))


@pytest.mark.parametrize("nodes", ["leaf", "lower"])
def test_another_machines_sums_change_no_state_and_stay_within_the_error(tmp_path, monkeypatch, nodes):
    grid = VdbGrid(name="x", volume=level_set())
    (report,) = write_compressed(tmp_path / "a.vxv", [grid], neural(steps=60, nodes=nodes))
    real = networks.fused_mlp
    draw = np.random.default_rng(0)

    def elsewhere(*arguments):
        outputs = real(*arguments)
        noise = draw.uniform(-1, 1, tuple(outputs.shape)) * 0.9
        noise[:, :1] *= networks.VALUE_MARGIN
        noise[:, 1:] *= networks.LOGIT_MARGIN
        return outputs + torch.from_numpy(noise.astype(np.float32))

    monkeypatch.setattr(networks, "fused_mlp", elsewhere)
    (again,) = read_compressed(tmp_path / "a.vxv")
    assert exact_but_values(grid.volume, again.volume)
    off = np.abs(grid.volume.values.astype(float) - again.volume.values.astype(float))
    assert 0 < off.max() <= report.max_error


def test_sums_beyond_the_margin_are_refused(tmp_path, monkeypatch):
    write_compressed(tmp_path / "a.vxv", [VdbGrid(name="x", volume=level_set())], neural(steps=60))
    real = networks.fused_mlp
    monkeypatch.setattr(networks, "fused_mlp", lambda *arguments: real(*arguments) + 0.5)
    with pytest.raises(FormatError, match=r"a\.vxv: .*this machine computes"):
        read_compressed(tmp_path / "a.vxv")


def test_the_same_seed_gives_the_same_file(tmp_path):
    files = []
    for seed in (3, 3, 4):
        write_compressed(tmp_path / "a.vxv", [VdbGrid(name="x", volume=blob(20))], neural(seed=seed, steps=10))
        files.append((tmp_path / "a.vxv").read_bytes())
    assert files[0] == files[1] != files[2]


def test_the_next_frame_starts_from_the_last(tmp_path):
    first, moved = blob(50, origin=(0, 0, 0)), blob(50, origin=(1, 0, 0))
    write_compressed(tmp_path / "1.vxv", [VdbGrid(name="x", volume=first)], neural(steps=200))
    before = CompressedFile(tmp_path / "1.vxv").networks()
    steps = []
    grids = [VdbGrid(name="x", volume=moved)]
    told = {"previous": before, "advance": lambda what, done, total: steps.append((what, total))}
    (warm,) = write_compressed(tmp_path / "2.vxv", grids, neural(steps=200), **told)
    (cold,) = write_compressed(tmp_path / "3.vxv", grids, neural(steps=50))
    assert ("training for x", 50) in steps
    assert warm.nbytes < cold.nbytes
    assert CompressedFile(tmp_path / "2.vxv").networks()["x"].shape == before["x"].shape
    # Elsewhere, the network has nothing to say.
    far = [VdbGrid(name="x", volume=blob(50, origin=(900, 0, 0)))]
    write_compressed(tmp_path / "4.vxv", far, neural(steps=4), previous=before)
    assert CompressedFile(tmp_path / "4.vxv").networks()["x"].shape != before["x"].shape


def test_where_a_network_is_of_no_use(tmp_path):
    grids = [
        VdbGrid(name="whole", volume=SparseVolume.from_dense(np.arange(64, dtype=np.int32).reshape(4, 4, 4))),
        VdbGrid(name="constant", volume=SparseVolume.from_dense(np.ones((4, 4, 4), np.float32))),
        VdbGrid(name="empty", volume=SparseVolume.from_dense(np.zeros((4, 4, 4), np.float32))),
    ]
    reports = write_compressed(tmp_path / "a.vxv", grids, neural(max_error=0.01, relative_error=None))
    assert [report.codec for report in reports] == ["quantised"] * 3
    for grid, again in zip(grids, read_compressed(tmp_path / "a.vxv"), strict=True):
        assert np.array_equal(grid.volume.values, again.volume.values)
    with pytest.raises(InputError, match="use the codec quantised"):
        write_compressed(tmp_path / "a.vxv", [VdbGrid(name="x", volume=blob(20))], neural(relative_error=1e-6))


def lying_network(raw, field, value):
    def change(directory):
        directory["grids"][0]["network"][field] = value

    return rewritten(raw, change)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("levels", 10**9),
        ("levels", 3),
        ("levels", "8"),
        ("log2_table_size", 28),
        ("max_resolution", 65535),
        ("hidden", 0),
        ("hidden", 10**6),
        ("channels", 2),
        ("channels", 10**9),
        ("extent", 0),
        ("extent", None),
        ("lower", [0, 0]),
        ("half_range", []),
        ("section", [0]),
        ("section", [0, 2**62]),
    ],
)
def test_networks_that_lie(tmp_path, field, value):
    path = tmp_path / "lie.vxv"
    write_compressed(path, [VdbGrid(name="x", volume=blob(20))], neural(steps=2))
    path.write_bytes(lying_network(path.read_bytes(), field, value))
    with pytest.raises(FormatError, match=r"lie\.vxv: "):
        read_compressed(path)


def test_weights_that_are_not_finite(tmp_path):
    path = tmp_path / "bad.vxv"
    write_compressed(path, [VdbGrid(name="x", volume=blob(20))], neural(steps=2))
    raw = bytearray(path.read_bytes())
    length = struct.unpack_from("<I", raw, 12)[0]
    at, size = json.loads(zlib.decompress(raw[24 : 20 + length]))["grids"][0]["network"]["section"]
    begin = 20 + length + at
    raw[begin + size - 2 : begin + size] = struct.pack("<e", np.inf)
    raw[begin : begin + 4] = struct.pack("<I", zlib.crc32(raw[begin + 4 : begin + size]))
    path.write_bytes(raw)
    with pytest.raises(FormatError, match=r"bad\.vxv: "):
        read_compressed(path)
