"""The ``voxfield`` command: finds the verb, parses its options, runs it, and turns what happens into an exit code.

Exit codes: 0 done, 1 failed, 2 the person can fix it (a wrong option, file or value), 130 interrupted.

Start-up matters here: this module imports nothing heavy, the verb's file is imported only when it is named, and a
verb's ``--help`` does not load torch either.
"""

import contextlib
import difflib
import errno
import functools
import importlib
import inspect
import io
import itertools
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

import voxfield
from voxfield.errors import LostRankError, TrainingDivergedError, TransferError, VoxfieldError

VERBS = {
    "train": "Train a recipe: a radiance field from posed photographs, or a network of another kind.",
    "eval": "Measure a run on what it was not trained on: of photographs PSNR, SSIM, LPIPS, speed, and what is wrong.",
    "render": "Render a camera path through a run as a video or images.",
    "bake": "Bake a run of any recipe into a sparse voxel grid, which needs no network.",
    "view": "Show a run, a scene, a volume, a mesh or points in a browser: move around, crop, film, take screenshots.",
    "report": "Write a run's report: one HTML file with curves, metrics and pictures.",
    "info": "Say what a run is: recipe, data, progress, results.",
    "capture convert": "Convert a capture of any layout to nerfstudio's transforms.json.",
    "capture multiscale": "Make the multi-scale Blender benchmark of mip-NeRF and PyNeRF from NeRF-synthetic data.",
    "capture process": "Make a capture with poses from plain photographs or a video, with COLMAP, on the CPU.",
    "capture download": "Download captures of a public data set, ready to train on.",
    "export mesh": "Export a run's field as a triangle mesh with coloured vertices or a texture: GLB, PLY or OBJ.",
    "export pointcloud": "Export a run's field as coloured points with normals: PLY.",
    "export cameras": "Export a run's cameras, without pictures, as nerfstudio's transforms.json.",
    "export blender": "Export a run or a scene for Blender: a script that builds volumes or meshes, and cameras.",
    "export nerfstudio": "Export a run's cameras and pictures for nerfstudio, and its weights as safetensors.",
    "export vdb": "Export a run's field as an OpenVDB file of density and colour.",
    "export html": "Export a run's field as one HTML file that shows it in a browser, without a server.",
    "sample diffusion": "Draw volumes from a diffusion, write them for other programs, and measure them.",
    "vdb info": "Say what an OpenVDB file holds: grids, types, bounds, transforms, values, compression.",
    "vdb stats": "Measure an OpenVDB file: sizes, active voxels, value ranges, memory of each grid.",
    "vdb convert": "Write an OpenVDB file anew: compression, precision, fewer voxels; or to and from other formats.",
    "vdb merge": "Bring the grids of several OpenVDB files into one.",
    "vdb compress": "Compress an OpenVDB file within a stated error, many times smaller than blosc.",
    "vdb decompress": "Write a compressed volume, or a box of it, as an OpenVDB file.",
    "vdb mesh": "Write the surface of a volume as a triangle mesh: GLB, PLY or OBJ.",
    "vdb compare": "Say how far a volume is from another: its values, and the shape that they show.",
    "vdb crop": "Write the part of an OpenVDB file's grids that lies in a box.",
    "vdb lod": "Write an OpenVDB file's volumes at several resolutions, each half of the one before.",
    "vdb optimise": "Write an OpenVDB file anew without what does not matter.",
    "voxelise": "Fill the voxels of one mesh: an OpenVDB volume that stands where the mesh does.",
    "dataset build": "Build a hierarchical voxel dataset from meshes, each different block kept once.",
    "dataset trace": "Trace rays through a voxel dataset's blocks: what each meets first, how much matter it crosses.",
    "dataset split": "Divide a voxel dataset's objects into train, val and test anew, and say what the splits share.",
    "dataset stats": "Say what a voxel dataset holds: objects, blocks of each level, how many are different, bytes.",
    "dataset view": "Write a contact sheet of a voxel dataset: one PNG with a picture of each object.",
    "dataset verify": "Verify a voxel dataset: checksums, names of blocks, lossless reassembly at every level, counts.",
    "dataset convert": "Write a voxel dataset, or traced rays, in another layout.",
    "prerender": "Render point clouds to voxels once, so that training reads them.",
    "bench": "Measure the kernels' speed, and training's on your data.",
    "doctor": "Say what will run on this machine, how fast, and what is missing.",
}
"""Every verb with its summary: the file of the same name holds it (``capture_convert``), its docstring begins with the
same words."""
_OF_THE_PLACE = {
    errno.ENOSPC: "Free some room on its disk, or write to another place. What is done is kept.",
    errno.EROFS: "Write to another place.",
    errno.EACCES: "Change its permissions, or name another place.",
    errno.EPERM: "Change its permissions, or name another place.",
    errno.EMFILE: "Raise the limit of open files: ulimit -n 4096.",
}
"""What a person can do about faults of the place that a file is at."""
GROUPS = {verb.split()[0] for verb in VERBS if " " in verb}
"""First words of the verbs that have two."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: arguments without the program's name; None takes the process's own.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    verb = " ".join(arguments[: 2 if arguments[:1] and arguments[0] in GROUPS else 1])
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt:
        return _fail(f"voxfield {verb}: interrupted.", 130)
    except BrokenPipeError:
        # The reader (head, less) left. Python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except VoxfieldError as error:
        if debug:
            traceback.print_exc()
        failed = isinstance(error, TrainingDivergedError | LostRankError | TransferError)
        return _fail(f"voxfield {verb}: {error}", 1 if failed else 2)
    except Exception as error:  # noqa: BLE001  (the last line of defence: a person gets a sentence, --debug the rest)
        if debug:
            traceback.print_exc()
        return _failed(verb, error, debug)


def _failed(verb: str, error: Exception, debug: bool) -> int:
    """Say what was not foreseen; of faults of the place that a file is at, what a person can do."""
    if isinstance(error, OSError) and error.errno in _OF_THE_PLACE:
        named = f"{error.filename}: " if error.filename else ""
        return _fail(f"voxfield {verb}: {named}{error.strerror}. {_OF_THE_PLACE[error.errno]}", 2)
    said = " ".join(str(error).split())[:300]
    hint = "" if debug else "\nAdd --debug to see where."
    return _fail(f"voxfield {verb}: failed with {type(error).__name__}: {said}{hint}", 1)


def run() -> NoReturn:
    """The console script."""
    sys.exit(main())


def _unknown(verb: str) -> str:
    """What is said of a verb that there is not: which ones of its group, or of all, it may be meant to be."""
    group, _, word = verb.partition(" ") if verb.partition(" ")[0] in GROUPS else ("", "", verb)
    known = {name.removeprefix(f"{group} "): name for name in VERBS if not group or name.split()[0] == group}
    close = [known[near] for near in difflib.get_close_matches(word, known, n=2, cutoff=0.5)]
    advice = f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join(known.values())}."
    kind = "option" if verb.startswith("-") else "verb"
    return f"voxfield: unknown {kind} {verb!r}. {advice}"


def _dispatch(arguments: list[str]) -> int:
    """Print what was asked about the command itself, or run the verb; the exit code."""
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(_overview(), flush=True)
        return 0
    if arguments[0] in {"-V", "--version"}:
        print(f"voxfield {voxfield.__version__}", flush=True)
        return 0
    verb, *rest = arguments
    if verb in GROUPS:
        if rest and rest[0] in {"-h", "--help", "help"}:
            print(_overview(verb), flush=True)
            return 0
        verb, rest = " ".join([verb, *rest[:1]]), rest[1:]
    if verb not in VERBS:
        return _fail(_unknown(verb), 2)
    return _run_verb(verb, rest)


def _run_verb(verb: str, arguments: list[str]) -> int:
    module = importlib.import_module(f"voxfield.cli.{verb.replace(' ', '_')}")
    call = _parse(verb, module.command, module.EXAMPLE, arguments)
    return call if isinstance(call, int) else call()


def _parse(verb: str, command: Callable[..., int], example: str, arguments: list[str]) -> Callable[[], int] | int:
    """Parse ``arguments`` by the types of ``command``; return the call to make, or the exit code when there is none."""
    import tyro

    from voxfield.cli.options import places

    # tyro parses and calls in one go. Handing it a function that only takes the values keeps parse errors, which are
    # reworded below, apart from whatever the verb itself does.
    taken: dict[str, object] = {}
    positional: list[object] = []

    @functools.wraps(command)
    def take(*args: object, **kwargs: object) -> None:
        positional.extend(args)
        taken.update(kwargs)

    said = (inspect.getdoc(command) or "").split("\n\nArgs:")[0]
    description = f"{said}\n\nExample: {example}\n\nAdd --debug to see where an error came from."
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            tyro.cli(
                take,
                prog=f"voxfield {verb}",
                description=description,
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff,),
                registry=places(),
            )
    except SystemExit as exit_:
        if exit_.code in {0, None}:
            return 0
        return _fail(f"voxfield {verb}: {_reword(complaint.getvalue())} See: voxfield {verb} --help", 2)
    return lambda: command(*positional, **taken)


def _reword(box: str) -> str:
    """What the parser drew as a box (of ASCII where the terminal has nothing else), as a sentence or two."""
    body = [line.strip("│╭╮╰╯|+ ") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()]
    text = "\n".join(line for line in body[1:] if line)
    sections = [" ".join(section.split()) for section in re.split(r"\n?[─-]{4,}\n?", text)]
    sections = [section for section in sections if section]
    if not sections:
        return "these options do not fit."
    said = sections[0]
    lacking: list[str] = []
    if said.startswith("Missing from"):
        # Options and metavars; what they are for stands below each, and below a line what was not recognised.
        start = next(at for at, line in enumerate(body) if line.startswith("Missing from"))
        told = itertools.takewhile(lambda line: not re.fullmatch("[─-]{4,}", line), body[start:])
        lacking = [line for line in told if re.fullmatch(r"--[a-z][\w-]*( [^(]+)?|[A-Z_]+( \.\.\.)?", line)]
        said = f"missing {' and '.join(lacking)}."
    strange = next((section for section in sections if section.startswith("Unrecognized options")), None)
    if strange is not None:
        said = _unrecognised(strange.partition(":")[2], lacking) + (f" And {said}" if lacking else "")
    choice = re.match(r"invalid choice '(.*?)' for argument '(.*?)'\. Expected one of \((.*)\)", said)
    if choice is not None:
        got, option, listed = choice.groups()
        choices = ", ".join(_in_order(re.findall(r"'[^']*'", listed)))
        said = f"{option}: expected one of {choices}, got '{got}'."
    value = re.match(r"Error parsing (\S+): .*?(\S+) could be instantiated from \['(.*?)'\]", said)
    if value is None:
        value = re.match(r"Error parsing (\S+): .*?()invalid literal for \w+\(\).*?: '(.*?)'", said)
    if value is not None:
        option, wanted, got = value.groups()
        kinds = {"INT": "a whole number", "FLOAT": "a number", "PATH": "a path"}
        wanted = wanted.removeprefix("{None}|")
        said = f"{option}: expected {kinds.get(wanted, wanted or 'a number')}, got {got!r}."
    near = [re.findall(r"--[\w-]+", section) for section in sections[1:] if section.startswith("Perhaps you meant")]
    if near and near[0]:
        said = said.rstrip(".") + f". Did you mean {' or '.join(dict.fromkeys(near[0]))}?"
    return said if said.endswith((".", "?", ")")) else said + "."


def _unrecognised(listed: str, lacking: Sequence[str]) -> str:
    """Options that do not exist, with what may have been meant of those that are lacking; or arguments too many."""
    words = [word.strip(",") for word in listed.split()]
    options = [word for word in words if word.startswith("-")]
    if not options:
        return f"unexpected {', '.join(map(repr, words))}."
    names = [line.split()[0] for line in lacking if line.startswith("--")]
    meant = [near for option in options for near in difflib.get_close_matches(option, names)]
    hint = f" Did you mean {' or '.join(dict.fromkeys(meant))}?" if meant else ""
    return f"unknown option {', '.join(options)}.{hint}"


def _in_order(choices: Sequence[str]) -> list[str]:
    """Quoted choices, numbers by their size; None, which is what an option is that was left out, is not one."""
    real = [choice for choice in choices if choice != "'None'"]
    return sorted(real, key=lambda one: (0, int(one[1:-1]), one) if one[1:-1].isdecimal() else (1, 0, one))


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


def _overview(group: str = "") -> str:
    """What there is; of one group only, if named."""
    shown = {verb: summary for verb, summary in VERBS.items() if not group or verb.split()[0] == group}
    width = max(map(len, shown))
    verbs = "\n".join(f"  {verb:<{width}}  {summary}" for verb, summary in shown.items())
    return f"""Voxfield {voxfield.__version__}: photographs to radiance fields, on any device.

usage: voxfield VERB [options]        voxfield VERB --help explains a verb, with an example

{verbs}

options:
  --help      this text
  --version   the version
  --debug     with any verb: show where an error came from

Example: voxfield train grid-ngp path/to/capture --minutes 5"""


if __name__ == "__main__":
    run()
