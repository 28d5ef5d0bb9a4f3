"""The command line as a person meets it: help, exit codes, one-line errors. Verbs' work is faked here."""

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest

import voxfield
from voxfield.cli.__main__ import VERBS, main
from voxfield.errors import InputError, MissingFileError, TrainingDivergedError

HEAVY = ("torch", "numba", "numpy", "triton", "rich.progress", "PIL", "h5py", "trimesh", "tensorboard", "av")


def run_python(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def loaded_after(arguments: list[str]) -> tuple[str, set[str]]:
    """What ``voxfield ARGUMENTS`` printed, and which heavy packages it loaded."""
    code = (
        "import sys\n"
        "from voxfield.cli.__main__ import main\n"
        f"code = main({arguments!r})\n"
        f"print('\\nLOADED', *[name for name in {HEAVY!r} if name in sys.modules])\n"
        "sys.exit(code)\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    text, _, loaded = done.stdout.rpartition("LOADED")
    return text, set(loaded.split())


def module_of(verb: str) -> ModuleType:
    return importlib.import_module(f"voxfield.cli.{verb.replace(' ', '_')}")


class FakeRun:
    """Stands for ``voxfield.Run``; records what the command line asks of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outcome, self.left_out = "finished", ()
        self.skipped: list[dict[str, str]] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def evaluate(self, **options: Any) -> dict[str, Any]:
        self.calls.append(("evaluate", options))
        return {
            "psnr": 31.416,
            "psnr_std": 1.0,
            "ssim": 0.9512,
            "ssim_std": 0.01,
            "lpips": None,
            "lpips_std": None,
            "num_rays_per_sec": 250_000.0,
            "fps": 0.39,
            "num_images": 25,
            "skipped": self.skipped,
            "protocol": {"lpips": None},
        }

    def render_path(self, kind: str, **options: Any) -> list[Path]:
        self.calls.append((kind, options))
        return [self.path / "renders" / "orbit.mp4"]

    def report(self) -> Path:
        return self.path / "report.html"

    def info(self) -> dict[str, Any]:
        return {"recipe": "grid-ngp", "step": 12_000, "results": {"psnr": 31.4}}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Replace the library; ``fake.trained`` and ``fake.run`` hold what the verbs asked of it."""
    record = SimpleNamespace(trained=[], run=FakeRun(Path("runs/x")), error=None)

    def train(*args: Any, **options: Any) -> FakeRun:
        record.trained.append((args, options))
        if record.error is not None:
            raise record.error
        return record.run

    others = dict.fromkeys(("ShapeRun", "Scene"), type(None))
    for name, stand_in in {"train": train, "open": lambda path: record.run, "Run": FakeRun, **others}.items():
        monkeypatch.setattr(voxfield, name, stand_in, raising=False)
    return record


def test_help_is_quick_and_names_every_verb() -> None:
    text, loaded = loaded_after(["--help"])
    assert not loaded
    for verb, summary in VERBS.items():
        assert f"{verb} " in text
        assert summary in text


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_help_has_an_example_and_loads_nothing_heavy(verb: str) -> None:
    text, loaded = loaded_after([*verb.split(), "--help"])
    assert not loaded
    module = module_of(verb)
    assert f"Example: {module.EXAMPLE}" in text
    assert module.EXAMPLE.startswith(f"voxfield {verb}")


@pytest.mark.parametrize("verb", VERBS)
def test_options_that_may_be_left_out_list_their_values(verb: str) -> None:
    """tyro lists those of a required option by itself; here the metavar has to, or the text tells them one by one."""
    text = inspect.getdoc(module_of(verb).command) or ""
    for name, hint in get_type_hints(module_of(verb).command, include_extras=True).items():
        kinds = get_args(get_args(hint)[0]) if get_origin(hint) is Annotated else ()
        choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
        if choices:
            told = re.search(rf"^\s*{name}: (.*?)(?=^\s*\w+: |\Z)", text, re.MULTILINE | re.DOTALL)
            assert told is not None
            assert get_args(hint)[1].metavar == "|".join(choices) or all(one in told[1] for one in choices), name


@pytest.mark.parametrize("verb", VERBS)
def test_overview_and_docstring_say_the_same(verb: str) -> None:
    module = module_of(verb)
    assert (inspect.getdoc(module.command) or "").startswith(VERBS[verb])


@pytest.mark.parametrize("verb", VERBS)
def test_the_example_parses(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = module_of(verb)
    called = []

    def stand_in(*args: Any, **kwargs: Any) -> int:
        called.append(args)
        return 0

    # The parser reads annotations and docstring from what it wraps.
    stand_in.__wrapped__ = module.command
    stand_in.__doc__ = module.command.__doc__
    stand_in.__annotations__ = module.command.__annotations__
    stand_in.__signature__ = inspect.signature(module.command)
    monkeypatch.setattr(module, "command", stand_in)
    assert main(module.EXAMPLE.split()[1:]) == 0
    assert called


def test_a_group_lists_its_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capture", "--help"]) == 0
    said = capsys.readouterr().out
    assert "capture convert " in said
    assert "capture download " in said
    assert "render" not in said.partition("options:")[0]


def test_no_arguments_prints_the_overview(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "usage: voxfield VERB" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"voxfield {voxfield.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "voxfield: unknown verb 'trian'. Did you mean train"),
        (["xyzzy"], "voxfield: unknown verb 'xyzzy'. Known: train, eval"),
        (["--versio"], "voxfield: unknown option '--versio'."),
        (
            ["capture"],
            "voxfield: unknown verb 'capture'. Known: capture convert, capture multiscale, capture process, ",
        ),
        (["capture", "convrt"], "voxfield: unknown verb 'capture convrt'. Did you mean capture convert?"),
        (
            ["capture", "eat"],
            "voxfield: unknown verb 'capture eat'. Known: capture convert, capture multiscale, capture process, ",
        ),
        (["capture", "download", "llff"], "voxfield capture download: "),
        (["train"], "voxfield train: missing RECIPE. See: voxfield train --help"),
        (["train", "grid-ngp"], "voxfield train: missing DATA: what shall grid-ngp learn from?"),
        (["train", "grid-ngp", "d", "--stpes", "3"], "Did you mean --steps?"),
        (["train", "grid-ngp", "d", "--steps", "many"], "--steps: expected a whole number, got 'many'."),
        (["train", "grid-ngp", "d", "--minutes", "long"], "--minutes: expected a number, got 'long'."),
        (["train", "grid-ngp", "d", "--set"], "--set"),
        (["eval", "runs/x", "--split", "tset"], "--split"),
        (["vdb", "merge"], "voxfield vdb merge: missing --output FILE. See: voxfield vdb merge --help"),
        (
            ["dataset", "build", "a.obj", "--output", "x"],
            "build: unknown option --output. Did you mean --output-dir? And missing --output-dir DIR. See",
        ),
        (["train", "grid-ngp", "d", "--outdir", "x"], "voxfield train: unknown option --outdir. See"),
        (["info", "runs/x", "more"], "voxfield info: unexpected 'more'. See"),
        (["vdb", "merge", "--output", "a.vdb"], "voxfield vdb merge: sources: name the files to merge."),
        (["vdb", "crop", "a.vdb"], "missing OUTPUT and --lower X Y Z and --upper X Y Z. See"),
        (
            ["prerender", "a.h5", "--dtype", "int8"],
            "voxfield prerender: --dtype: expected one of 'float16', 'float32', 'uint8', got 'int8'.",
        ),
        (["vdb", "lod", "a.vdb", "--brick", "7", "--output", "b"], "one of '8', '16', '32', '64', '128', got '7'."),
        (["render", "runs/x", "--camera", "vr18"], "'vr180'"),
        (["info"], "voxfield info: missing RUN."),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("data: expected a capture."), 2, "voxfield train: data: expected a capture.\n"),
        (MissingFileError("lego: no such folder."), 2, "voxfield train: lego: no such folder.\n"),
        (TrainingDivergedError("the loss became NaN."), 1, "voxfield train: the loss became NaN.\n"),
        (KeyboardInterrupt(), 130, "voxfield train: interrupted.\n"),
        (
            RuntimeError("something\nodd"),
            1,
            "voxfield train: failed with RuntimeError: something odd\nAdd --debug to see where.\n",
        ),
    ],
)
def test_errors_become_a_line_and_a_code(
    fake: SimpleNamespace, error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.error = error
    assert main(["train", "grid-ngp", "data"]) == code
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("arguments", [["--debug", "train", "a", "b"], ["train", "a", "b", "--debug"]])
def test_debug_shows_the_traceback(
    fake: SimpleNamespace, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    fake.error = InputError("data: wrong.")
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.endswith("voxfield train: data: wrong.\n")


def test_train_passes_every_option_on(fake: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "train grid-ngp data/lego --output runs/a --steps 10 --minutes 2.5 --resume --seed 3 --device cpu"
    arguments += " --precision float32 --image-cache 4GB --max-memory 2GB --quiet --set model.a=1 --set model.b=x,y"
    arguments += " --config c.yaml --memory 8GB"
    arguments += " --from g.vdb"
    arguments += " --view --host 0.0.0.0 --port 7008"
    assert main(arguments.split()) == 0
    ((args, options),) = fake.trained
    assert args == ("grid-ngp", Path("data/lego"))
    assert options == {
        "output": Path("runs/a"),
        "steps": 10,
        "minutes": 2.5,
        "resume": True,
        "seed": 3,
        "device": "cpu",
        "precision": "float32",
        "image_cache": "4GB",
        "max_memory": "2GB",
        "memory": "8GB",
        "quiet": True,
        "view": True,
        "host": "0.0.0.0",
        "port": 7008,
        "overrides": ("model.a=1", "model.b=x,y"),
        "config": Path("c.yaml"),
        "start": Path("g.vdb"),
    }
    assert "runs/x/report.html" in capsys.readouterr().out.replace("\\", "/")


def test_an_interrupted_training_says_how_to_go_on(fake: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    fake.run.outcome = "interrupted"
    assert main(["train", "grid-ngp", "data/lego"]) == 130
    said = capsys.readouterr().out.replace("\\", "/")
    assert "Continue: voxfield train grid-ngp data/lego --output runs/x --resume\n" in said


def test_pictures_left_out_make_exit_1(fake: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    fake.run.left_out = ("a", "b")
    fake.run.skipped = [{"name": "c", "reason": "cut short"}]
    assert main(["train", "grid-ngp", "data/lego"]) == 1
    assert "Trained without 2 pictures that could not be used" in capsys.readouterr().out
    assert main(["eval", "runs/x"]) == 1
    assert "Measured without 1 pictures that could not be used" in capsys.readouterr().out


def test_defaults_are_the_librarys() -> None:
    from voxfield.cli import eval as eval_verb
    from voxfield.cli import render, train

    exempt = {"path", "data", "compute_metrics", "volume"}  # of the verbs alone
    for command, call, renamed in (
        (train.command, voxfield.train, {"settings": "overrides"}),
        (eval_verb.command, voxfield.Run.evaluate, {}),
        (render.command, voxfield.Run.render_path, {"path": "kind"}),
    ):
        library = inspect.signature(call).parameters
        for name, parameter in inspect.signature(command).parameters.items():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in exempt:
                assert library[renamed.get(name, name)].default == parameter.default, (command.__module__, name)


def test_eval_prints_the_metrics(fake: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "runs/x", "--split", "val", "--max-images", "3", "--background", "white"]) == 0
    ((_, options),) = fake.run.calls
    assert (options["split"], options["max_images"], options["background"]) == ("val", 3, "white")
    said = capsys.readouterr().out
    assert "PSNR   31.42 ± 1.00 dB" in said
    assert "LPIPS  not measured: name weights with --lpips-weights" in said
    assert "aligned" not in said


def test_eval_prints_the_focus(
    fake: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = fake.run.evaluate()
    measured |= {"psnr_aligned": 33.2, "psnr_aligned_std": None, "verdicts": {"misaligned": 4, "sharp and aligned": 1}}
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(fake.run, "evaluate", lambda **options: asked.append(options) or measured)
    assert main(["eval", "runs/x", "--align-poses"]) == 0
    assert asked[0]["align_poses"] is True
    said = capsys.readouterr().out
    assert "33.20 dB with aligned poses" in said
    assert "Focus  4 misaligned, 1 sharp and aligned" in said
    assert "focus.html" in said


def test_eval_prints_the_scales(
    fake: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = {"width": 8, "height": 6, "psnr": 30.0, "ssim": 0.9, "lpips": 0.1, "avg_error": 0.02, "seconds": 1.0}
    measured = fake.run.evaluate() | {"avg_error": 0.02, "per_scale": [{"scale": 1, **one}, {"scale": 2, **one}]}
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(fake.run, "evaluate", lambda **options: asked.append(options) or measured)
    assert main(["eval", "runs/x", "--scales", "1", "2"]) == 0
    assert asked[0]["scales"] == (1, 2)
    said = capsys.readouterr().out
    assert "Error  0.02000" in said
    assert "1/2    8x6     30.00" in said


def test_render_report_info(fake: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "runs/x", "--path", "spiral", "--frames", "12", "--width", "640"]) == 0
    ((kind, options),) = fake.run.calls
    assert kind == "spiral"
    assert (options["frames"], options["width"], options["height"]) == (12, 640, None)
    assert main(["report", "runs/x"]) == 0
    assert main(["info", "runs/x"]) == 0
    said = capsys.readouterr().out
    assert "orbit.mp4" in said
    assert "report.html" in said
    assert "recipe  grid-ngp\nstep    12000\nresults\n  psnr  31.4\n" in said
    assert main(["info", "runs/x", "--json"]) == 0
    assert '"step": 12000' in capsys.readouterr().out


def test_render_options(fake: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    words = "render runs/x --path dataset --split val --save-depth --chunk-size 2048 --beside runs/y --compute-metrics"
    assert main(words.split()) == 0
    (_, options), (measured, what) = fake.run.calls
    assert (options["split"], options["save_depth"], options["chunk_size"]) == ("val", True, 2048)
    assert options["beside"] == Path("runs/y")
    assert (measured, what["split"]) == ("evaluate", "val")
    assert "PSNR   31.42 ± 1.00 dB" in capsys.readouterr().out
    assert main(["render", "runs/x", "--path", "zoom", "--compute-metrics"]) == 2
    assert "--compute-metrics: only --path dataset has photographs" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error() -> None:
    code = (
        "import sys\n"
        "from voxfield.cli import __main__ as cli\n"
        "def command() -> int:\n"
        "    'Print a lot.'\n"
        "    for _ in range(100_000): print('x' * 100)\n"
        "    return 0\n"
        "import voxfield.cli.doctor as doctor\n"
        "doctor.command = command\n"
        "cli.run.__globals__['sys'].argv = ['voxfield', 'doctor']\n"
        "cli.run()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 1


def test_a_reader_that_leaves_sees_no_traceback() -> None:
    code = "import sys; from voxfield.cli.__main__ import main; sys.stdin.read(); sys.exit(main([]))"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
