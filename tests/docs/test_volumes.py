"""The page on volumes is run: its Python from top to bottom, on a camera of one's own."""

import re

import torch

from voxfield.geometry.camera import Cameras


def test_the_pages_python_runs(repository, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (repository / "docs/formats/vdb.md").read_text(encoding="utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(snippets) == 3
    names = {}
    for number, snippet in enumerate(snippets):
        exec(compile(snippet, f"docs/formats/vdb.md, snippet {number}", "exec"), names)
    assert len(names["coordinates"]) == 20**3
    assert (tmp_path / "grid.vdb").is_file()
    pose = torch.eye(3, 4)[None].clone()
    pose[0, 2, 3] = 4.0
    cameras = Cameras(
        camera_to_world=pose,
        focal=torch.tensor([[64.0, 64.0]]),
        principal=torch.tensor([[8.0, 8.0]]),
        width=torch.tensor([16]),
        height=torch.tensor([16]),
    )
    assert names["show"](cameras).shape == (256, 3)
    assert "loaded level_1_brick_0_0_0" in capsys.readouterr().out
