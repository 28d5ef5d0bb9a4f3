"""The documents are run: the tutorial's commands, the settings the pages name, the verbs they list."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from voxfield.cli.__main__ import GROUPS, VERBS, _parse, main

SCENE = "examples/scenes/workbench"

# What a person waits for and a test does not.
QUICKER = [
    (r"--minutes \d+", "--steps 30"),
    (r"--seconds \d+", "--frames 2"),
    (r"--width \d+", "--width 24"),
    (r"width=\d+", "width=24"),
    (r"log2_table_size=19", "log2_table_size=14"),
]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    return [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]


def pages(repository: Path) -> list[Path]:
    return [repository / "README.md", repository / "CONTRIBUTING.md", *(repository / "docs").rglob("*.md")]


def test_the_tutorial_runs(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from voxfield.data.synthetic import posed_images, write_blender

    write_blender(
        tmp_path / SCENE,
        [posed_images(count=8, resolution=24), posed_images(count=2, resolution=24, split="test")],
    )
    monkeypatch.chdir(tmp_path)
    page = (repository / "docs" / "tutorial.md").read_text(encoding="utf-8")
    ran = 0
    for language, text in re.findall(r"^```(console|python)\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        for pattern, replacement in QUICKER:
            text = re.sub(pattern, replacement, text)
        if language == "python":
            exec(compile(text, "docs/tutorial.md", "exec"), {})
            ran += 1
        else:
            for command in commands(text):
                assert main([*shlex.split(command)[1:]]) == 0, command
                ran += 1
    assert ran >= 7
    said = capsys.readouterr().out
    assert re.search(r"\d+\.\d\d dB", said)
    assert "files written" in said
    assert (tmp_path / "runs/tutorial/report.html").is_file()
    assert (tmp_path / "runs/tutorial/eval/test/metrics.json").is_file()
    assert list((tmp_path / "runs/tutorial/renders").iterdir())


def test_commands_in_the_documents_exist(repository: Path) -> None:
    named = set()
    for page in pages(repository):
        for text in blocks(page, "console"):
            for words in map(shlex.split, commands(text)):
                if words[0] == "voxfield":
                    named.add(" ".join(words[1:3]) if words[1] in GROUPS else words[1])
    assert named
    assert named <= set(VERBS)


def full_commands(page: Path) -> list[str]:
    """Commands of console blocks, and those within sentences and tables that leave nothing open."""
    listed = [command for text in blocks(page, "console") for command in commands(text.replace("\\\n", " "))]
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    quoted = re.findall(r"`((?:voxfield|torchrun) [^`]+)`", prose)
    return listed + [one for one in quoted if not re.search(r"[|\[]|\.\.\.", one)]


def test_options_of_commands_in_the_documents_exist(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The parser takes every full command as it stands; nothing is run."""
    from voxfield.recipes import RECIPES

    wrong, parsed = [], 0
    for page in pages(repository):
        for command in full_commands(page):
            words = shlex.split(command, comments=True)
            words = words[words.index("voxfield") + 1 :] if "voxfield" in words else []
            verb = " ".join(words[:2]) if words[:1] and words[0] in GROUPS else words[0] if words else ""
            if verb not in VERBS or len(words) == len(verb.split()):
                continue  # another program, or only the verb's name
            module = importlib.import_module(f"voxfield.cli.{verb.replace(' ', '_')}")
            call = _parse(verb, module.command, module.EXAMPLE, words[len(verb.split()) :])
            said = capsys.readouterr().err.strip()
            parsed += 1
            if isinstance(call, int) and call != 0:
                wrong.append(f"{page.relative_to(repository)}: {command}: {said}")
            elif verb == "train" and words[1] not in (*RECIPES, "RECIPE"):
                wrong.append(f"{page.relative_to(repository)}: {command}: no such recipe")
    assert not wrong, "\n".join(wrong)
    assert parsed > 200


def test_runs_are_named_as_training_names_them(repository: Path) -> None:
    """Where commands train without --output, what follows in the same block goes on with the run they make."""
    from voxfield.api.books import default_run_dir

    wrong = []
    for page in pages(repository):
        for text in blocks(page, "console"):
            made: set[str] = set()
            for words in map(shlex.split, commands(text)):
                if words[:2] == ["voxfield", "train"] and "--output" not in words and len(words) > 3:
                    made.add(default_run_dir(words[2], words[3]).as_posix())
                elif "--output" in words:
                    made.add(words[words.index("--output") + 1])
                elif made and (run := next((word for word in words if word.startswith("runs/")), None)):
                    wrong += [] if run in made else [f"{page.relative_to(repository)}: {run}, of {sorted(made)}"]
    assert not wrong


def test_the_command_pages_table_is_complete(repository: Path) -> None:
    page = (repository / "docs" / "cli.md").read_text(encoding="utf-8")
    for verb, summary in VERBS.items():
        assert re.search(rf"^\| `{verb}[ `].*\| {re.escape(summary)} \|$", page, re.MULTILINE), verb


def test_settings_in_the_documents_exist(repository: Path) -> None:
    from voxfield.recipes import RECIPES, load_recipe
    from voxfield.training.experiment import apply_overrides

    for page in pages(repository):
        for line in page.read_text(encoding="utf-8").splitlines():
            recipe = max((name for name in RECIPES if name in line), key=len, default="grid-ngp")
            for override in re.findall(r"--set ([\w.]+=[\w.,:]+)", line):
                if not override.startswith("path="):
                    apply_overrides(load_recipe(recipe), [override])


def test_links_lead_somewhere(repository: Path) -> None:
    broken = []
    for page in pages(repository):
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http:", "https:", "mailto:")) and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(repository)}: {target}")
    assert not broken


def test_files_the_walk_names_exist(repository: Path) -> None:
    page = (repository / "docs" / "architecture.md").read_text(encoding="utf-8")
    walk = re.search(r"## A walk(.*?)\n## ", page, re.DOTALL)
    assert walk is not None
    named = re.findall(r"^\d\. `([\w/.]+)`", walk.group(1), re.MULTILINE)
    assert len(named) == 6
    assert [path for path in named if not (repository / "src/voxfield" / path).is_file()] == []


def test_every_decision_is_listed(repository: Path) -> None:
    folder = repository / "docs" / "decisions"
    index = (folder / "index.md").read_text(encoding="utf-8")
    assert [path.name for path in sorted(folder.glob("[0-9]*.md")) if f"({path.name})" not in index] == []


def test_examples_compile(repository: Path) -> None:
    examples = sorted((repository / "examples").glob("[0-9]*.py"))
    assert examples
    for path in examples:
        compile(path.read_text(encoding="utf-8"), str(path), "exec")
