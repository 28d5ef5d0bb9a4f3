import pickle
from pathlib import Path

import pytest
import torch

from voxfield.errors import FormatError, MissingFileError
from voxfield.storage import checkpoint
from voxfield.storage.checkpoint import list_checkpoints, load_checkpoint, load_latest, save_checkpoint

STATE = {"model": {"w": torch.arange(1000.0)}, "seconds": 1.5, "average": None}


def test_there_and_back(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 12_000, STATE, keep=2)
    assert path == tmp_path / "checkpoints" / "step-000012000.pt"
    state = load_checkpoint(path)
    assert (state["step"], state["seconds"], state["average"]) == (12_000, 1.5, None)
    assert torch.equal(state["model"]["w"], STATE["model"]["w"])  # type: ignore[index]


def test_tensors_are_on_the_cpu_wherever_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_checkpoint(tmp_path, 1, STATE, keep=1)
    asked: list[object] = []
    load = checkpoint.torch.load

    def noting(*args: object, map_location: object, **options: object) -> object:
        asked.append(map_location)
        return load(*args, map_location=map_location, **options)

    monkeypatch.setattr(checkpoint.torch, "load", noting)
    load_checkpoint(path)
    load_latest(tmp_path)
    assert asked == ["cpu", "cpu"]


def test_the_oldest_go(tmp_path: Path) -> None:
    for step in (5, 1_000, 20, 300):
        save_checkpoint(tmp_path, step, STATE, keep=2)
    # "Newest" is the step, whatever the order of writing.
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000000300.pt", "step-000001000.pt"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = save_checkpoint(tmp_path, 1, STATE, keep=1)

    def full(state: object, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path, 2, STATE, keep=1)
    assert list((tmp_path / "checkpoints").iterdir()) == [kept]
    assert load_checkpoint(kept)["step"] == 1


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_one_cut_short_gives_way_to_the_one_before(tmp_path: Path, share: float) -> None:
    older = save_checkpoint(tmp_path, 1, STATE, keep=2)
    newer = save_checkpoint(tmp_path, 2, STATE, keep=2)
    content = newer.read_bytes()
    newer.write_bytes(content[: int(len(content) * share)])
    path, state, problems = load_latest(tmp_path)
    assert path == older
    assert state["step"] == 1
    (problem,) = problems
    assert str(newer) in problem
    assert "cut short" in problem
    assert len(problem.splitlines()) == 1


def test_bytes_that_changed_are_noticed_or_harmless(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, STATE, keep=1)
    content = bytearray(path.read_bytes())
    content[:64] = b"\0" * 64
    path.write_bytes(content)
    with pytest.raises(FormatError, match="cannot be read"):
        load_checkpoint(path)


def test_when_all_are_broken_there_is_one_error(tmp_path: Path) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, STATE, keep=2).write_bytes(b"")
    with pytest.raises(FormatError, match=r"step-000000002\.pt.*[Tt]rain it again") as caught:
        load_latest(tmp_path)
    assert len(str(caught.value).splitlines()) <= 2


def test_none_at_all(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path) == []
    with pytest.raises(MissingFileError, match="no checkpoint"):
        load_latest(tmp_path)
    with pytest.raises(MissingFileError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "step-000000001.pt")


def test_something_else_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(FormatError, match="is not a checkpoint of Voxfield"):
        load_checkpoint(tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(FormatError, match="cannot be read"):
        load_checkpoint(tmp_path / "text.pt")


def test_a_newer_format_says_update(tmp_path: Path) -> None:
    torch.save({"format": checkpoint.FORMAT, "version": checkpoint.VERSION + 1}, tmp_path / "newer.pt")
    with pytest.raises(FormatError, match="newer Voxfield"):
        load_checkpoint(tmp_path / "newer.pt")


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("code of a checkpoint ran",))


def test_loading_runs_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"format": checkpoint.FORMAT, "version": 1, "step": Malicious()}, path)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Malicious(), protocol=2))
    for file in (path, tmp_path / "evil.pkl"):
        with pytest.raises(FormatError):
            load_checkpoint(file)
    assert "ran" not in capsys.readouterr().out
