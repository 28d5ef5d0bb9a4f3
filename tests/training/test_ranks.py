"""Two ranks on the loopback interface train what one process trains on batches of twice the size."""

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from voxfield.distributed.ranks import ALONE
from voxfield.storage.checkpoint import load_latest
from voxfield.storage.run_log import read_log

WORKER = Path(__file__).with_name("rank_worker.py")
_spec = importlib.util.spec_from_file_location("rank_worker", WORKER)
assert _spec is not None
assert _spec.loader is not None
rank_worker = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(rank_worker)

pytestmark = pytest.mark.timeout(600)  # a loaded machine starts processes slowly


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, shape_dataset: Path, shape_rays: dict[str, Path]) -> Path:
    """The folder in which two ranks left the results of all scenarios."""
    folder = tmp_path_factory.mktemp("ranks")
    give_shapes(folder, shape_dataset, shape_rays)
    rank_worker.begin(folder / "begun-alone", ALONE, folder / "log-alone")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", str(WORKER), str(folder)],
            env={**common, "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(rank_worker.SIZE)
    ]
    said = [process.communicate(timeout=500)[1] for process in started]
    # Rank 1 ends by dying, as its last scenario asks.
    assert [process.returncode for process in started] == [0, 9], said
    return folder


def give_shapes(folder: Path, dataset: Path, rays: dict[str, Path]) -> None:
    """Put voxels and rays where trainings in ``folder`` look for them."""
    (folder / rank_worker.SHAPES).symlink_to(dataset)
    (folder / rank_worker.RAYS).symlink_to(rays["packed"])


def results(folder: Path, scenario: str) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{scenario}-{rank}.pt") for rank in range(2)]


def assert_states_close(state: dict[str, Any], other: dict[str, Any]) -> None:
    """Sums of floats in another order: equal to four digits, but for one in 10,000 numbers of a table.

    A row that a single sample barely reaches (it lies within a thousandth of a cell of the far side) has a gradient of
    1e-9 or so, whose sign turns with the last bit of the sample's place. Adam, with its epsilon of 1e-15, goes as far
    for it as for any other: two rates apart after one step. What ranks exchange is compared before that, as gradients.
    """
    assert state.keys() == other.keys()
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            apart = ~torch.isclose(other[name].double(), value.double(), rtol=1e-4, atol=1e-4)
            assert int(apart.sum()) <= value.numel() // 10_000, name


def assert_gradients_close(gradients: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """From the same parameters: nothing but the order of sums is left, a few units in the last place of the largest."""
    assert gradients
    assert gradients.keys() == other.keys()
    for name, value in gradients.items():
        if value.numel():
            assert float((other[name] - value).abs().max()) <= 2e-6 * float(value.abs().max()), name


@pytest.mark.parametrize("recipe", rank_worker.OVERRIDES)
def test_ranks_learn_what_one_learns_from_larger_batches(
    recipe: str, together: Path, tmp_path: Path, shape_dataset: Path, shape_rays: dict[str, Path]
) -> None:
    give_shapes(tmp_path, shape_dataset, shape_rays)
    first, second = results(together, recipe)
    alone = rank_worker.train(recipe, tmp_path, ALONE)
    assert first["outcome"] == second["outcome"] == alone["outcome"] == "finished"
    losses = [
        [line["loss"] for line in read_log(folder) if line["kind"] == "train"]
        for folder in (tmp_path / recipe / "log-0", together / recipe / "log-0")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert_gradients_close(alone["gradients"], first["gradients"])
    assert_states_close(alone["state"], first["state"])
    for name, value in first["state"].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, second["state"][name]), f"{name} differs between ranks"


def test_only_one_rank_writes_and_says_what_was_exchanged(together: Path) -> None:
    lines = [line for line in read_log(together / "grid-ngp" / "log-0") if line["kind"] == "train"]
    assert len(lines) == rank_worker.STEPS
    assert all(line["exchanged_bytes"] > 0 for line in lines)
    assert not [line for line in read_log(together / "grid-ngp" / "log-1") if line["kind"] == "train"]
    single = next(line for line in lines if line["step"] == 1)
    assert single["num_rays"] % 2 == 0


def test_a_signal_on_one_rank_stops_all_after_the_same_step(together: Path) -> None:
    assert results(together, "stop_on_one") == [{"outcome": "interrupted", "step": 4}] * 2
    assert load_latest(together / "stop")[1]["step"] == 4


def test_a_broken_loss_on_one_rank_stops_all(together: Path) -> None:
    for found in results(together, "diverge_on_one"):
        assert found["kind"] == "TrainingDivergedError"
        assert "on a rank at step 2" in found["said"]


def test_ranks_with_other_settings_are_refused(together: Path) -> None:
    for found in results(together, "disagree"):
        assert found["kind"] == "InputError"
        assert found["said"].startswith("Rank 1 of 2 has other settings than rank 0.")


def test_what_one_rank_finds_wrong_ends_all(together: Path) -> None:
    first, second = results(together, "fail_on_one")
    assert first == {"kind": "VoxfieldError", "said": "runs/x: holds a run already."}
    assert second == {"kind": "InputError", "said": "rank 0: runs/x: holds a run already."}


@pytest.mark.parametrize("case", ["few", "many", "none", "shared"])
def test_gradients_are_added_up(together: Path, case: str) -> None:
    first, second = (found[case] for found in results(together, "exchange"))
    *gradients, touched = zip(first["own"], second["own"], first["sums"], second["sums"], strict=True)
    for one, other, total, same in gradients:
        assert torch.equal(total, one + other)
        assert torch.equal(total, same)
    one, other, either, same = touched
    assert torch.equal(either, one | other)
    assert torch.equal(either, same)


def test_rows_are_sent_where_that_is_smaller(together: Path) -> None:
    few, many, none = (results(together, "exchange")[0][case] for case in ("few", "many", "none"))
    whole = sum(gradient.nbytes for gradient in few["own"][:-1])
    assert none["received"] == 3 * 5 * 4
    assert few["received"] < 0.1 * whole
    # Two ranks: as much as all of it comes in, and the flags.
    assert many["received"] == whole + 5000


def test_checkpoints_of_two_ranks_and_of_one_continue_each_other(together: Path, tmp_path: Path) -> None:
    whole = rank_worker.train("grid-ngp", tmp_path, ALONE)["state"]
    for found in results(together, "change_over"):
        assert_states_close(whole, found["state"])
    trainer = rank_worker.trainer_of("grid-ngp", tmp_path / "after", ALONE)
    trainer.restore(load_latest(together / "begun-together")[1])
    # What rank 0 hears between two steps, all agree on at the end of the next.
    assert trainer.step == rank_worker.STEPS // 2 + 1
    rank_worker.run(trainer, tmp_path / "after-log")
    assert_states_close(whole, trainer._module.state_dict())


def test_a_rank_that_dies_leaves_a_checkpoint_of_the_last_whole_step(together: Path) -> None:
    found = torch.load(together / "lose_one-0.pt")
    assert found["kind"] == "LostRankError"
    assert "--resume" in found["said"]
    assert found["step"] == 5
    assert load_latest(together / "lost")[1]["step"] == 5
