"""Looking at runs, and at trainings."""

import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import voxfield
from voxfield.cli.__main__ import main
from voxfield.errors import FormatError, InputError, MissingFileError

pytest.importorskip("viser", reason="needs viser")


@pytest.fixture(scope="module")
def run(tiny_capture: Path, tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("runs") / "spheres"
    return voxfield.train("grid-ngp", tiny_capture, output=path, steps=10, overrides=tiny, quiet=True)


def test_a_run_is_shown_also_when_it_is_deleted_meanwhile(run: Any) -> None:
    from voxfield.viewer.subjects import develop, look

    with voxfield.view(run.path, port=0, quiet=True) as viewer:
        (run.path / "log.jsonl").rename(run.path / "log.bak")
        with urllib.request.urlopen(viewer.url) as answer:
            assert answer.status == 200
        assert viewer.subject.modes == ("colour", "depth", "opacity", "normals")
        (run.path / "log.bak").rename(run.path / "log.jsonl")
    # What browsers see is what the run renders.
    cameras = run.captures.image_cameras
    from voxfield.viewer.subjects import Shot

    fov = 2 * float((0.5 * cameras.height[0] / cameras.focal[0, 1]).atan())
    shot = Shot(camera_to_world=cameras.camera_to_world[0], fov=fov, aspect=1.0)
    camera = shot.camera(32)
    made = develop(look(run.subject(), camera.image_rays(0), shot, cameras.focal.new_ones(3)), shot, camera)
    seen = run.render(cameras, 0)["rgb"]
    assert float((made.rgb / 255 - seen).abs().max()) < 0.01


def test_a_training_that_is_watched_is_the_one_that_is_not(
    tiny_capture: Path, tiny: tuple[str, ...], tmp_path: Path, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from voxfield.storage.checkpoint import load_latest

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        watched = voxfield.train(
            "grid-ngp", tiny_capture, output=tmp_path / "run", steps=10, overrides=tiny, view=True, port=port
        )
    said = capsys.readouterr().err
    assert "Watch it at http://127.0.0.1:" in said
    assert f":{port}/" not in said
    assert watched.outcome == "finished"
    (_, own, _), (_, other, _) = load_latest(tmp_path / "run"), load_latest(run.path)
    assert all((own["model"][name] == other["model"][name]).all() for name in own["model"])


def test_what_cannot_be_viewed_is_said(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MissingFileError, match="no such file"):
        voxfield.view(tmp_path / "absent")
    with pytest.raises(FormatError, match="holds no run"):
        voxfield.view(tmp_path)
    with pytest.raises(InputError, match="address of this machine"):
        voxfield.train("grid-ngp", tmp_path, output=tmp_path / "run", view=True, host="no such host", quiet=True)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="port: expected"):
        voxfield.view(run.path, port=70_000, quiet=True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["view", str(run.path), "--port", str(port), "--quiet"]) == 2
    assert f"Port {port} is in use" in capsys.readouterr().err
