"""``startup``: what a person waits for before anything happens."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

IMPORT = "import time; t = time.perf_counter(); import voxfield; print(time.perf_counter() - t)"
PREPARE = """
from voxfield.recipes.rehearsal import compile_kernels
from voxfield.distributed.devices import place
from voxfield.training.progress import Progress
with Progress(quiet=True) as progress:
    print(compile_kernels("RECIPE", place("cpu"), progress))
"""
RECIPES = ("grid-ngp", "nerfacto", "pynerf-occupancy-grid", "plenoxels-fast")


def measure(recipes: Sequence[str] = RECIPES, repeats: int = 5) -> dict[str, Any]:
    """Seconds of imports, of help, of compiling kernels and of finding them compiled.

    Args:
        recipes: whose kernels are compiled, each with an empty cache of its own; the first also shows what a later run
            waits for.
        repeats: imports and helps.

    Returns:
        ``import_seconds`` (the statement alone), ``help_seconds`` (the whole process), ``compile_seconds`` (kernels
        with an empty cache), ``load_seconds`` (with a full one), ``compiled_functions`` (files the first left),
        ``compiled_again`` (files the second added), ``recipes``
        (seconds of compiling by recipe).
    """
    imports = [float(_said([sys.executable, "-c", IMPORT])) for _ in range(repeats)]
    helps = [_seconds([sys.executable, "-m", "voxfield.cli", "--help"]) for _ in range(repeats)]
    first, *others = recipes
    with tempfile.TemporaryDirectory(prefix="voxfield-startup-") as folder:
        cold = _prepare(folder, first)
        after_cold = compiled_files(Path(folder))
        warm = _prepare(folder, first)
        again = compiled_files(Path(folder)) - after_cold
    by_recipe = {first: cold}
    for recipe in others:
        with tempfile.TemporaryDirectory(prefix="voxfield-startup-") as folder:
            by_recipe[recipe] = _prepare(folder, recipe)
    return {
        "import_seconds": min(imports),
        "help_seconds": min(helps),
        "compile_seconds": cold,
        "load_seconds": warm,
        "compiled_functions": len(after_cold),
        "compiled_again": len(again),
        "recipes": by_recipe,
    }


def compiled_files(folder: Path) -> set[str]:
    """Numba's compiled functions under ``folder``."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*.nbc")}


def _prepare(cache: str, recipe: str) -> float:
    return float(_said([sys.executable, "-c", PREPARE.replace("RECIPE", recipe)], NUMBA_CACHE_DIR=cache))


def _seconds(command: list[str]) -> float:
    began = time.perf_counter()
    _said(command)
    return time.perf_counter() - began


def _said(command: list[str], **environment: str) -> str:
    """The last number or line that ``command`` prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    lines = [line for line in done.stdout.splitlines() if re.search(r"\S", line)]
    return lines[-1] if lines else ""
