"""``focus.html``: why each picture of an evaluation scored as it did, on one page that needs nothing else.

The worst pictures first: truth, prediction and error, and beside them what the camera sees once it is aligned, where
it was. Then every picture's figures and what the words mean. Names come from files and are escaped.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from voxfield.errors import FormatError, MissingFileError
from voxfield.export.page import (
    bullet_list,
    cards,
    document,
    escape,
    is_number,
    list_in,
    mappings_in,
    number,
    picture_title,
    settings_table,
)
from voxfield.export.report_pictures import embed_comparison
from voxfield.storage.atomic import write_bytes

FOCUS_NAME = "focus.html"

MOST_PICTURES = 16
"""Pictures shown, the worst by PSNR."""

PICTURE_BYTES = 8_000_000
"""Bytes of encoded pictures embedded at most."""

_WORDS = {
    "misaligned": "Moving the camera helps, or prediction and truth show the same things in different places.",
    "exposure differs": "One gain and offset per channel bring the prediction much nearer.",
    "prediction blurred": "The field has less detail than the photograph: train longer, or refine the training poses.",
    "photograph blurred": "The photograph has less detail than the field: it moved or was out of focus.",
    "outlier (content)": "Far below the other pictures for none of these reasons: look for what only it shows.",
    "sharp and aligned": "None of these.",
}

_COLUMNS = (
    ("PSNR, dB", ("psnr",), "{:.2f}"),
    ("aligned, dB", ("psnr_aligned",), "{:.2f}"),
    ("unseen tiles, dB", ("alignment", "psnr_unseen"), "{:.2f}"),
    ("the same aligned, dB", ("alignment", "psnr_unseen_aligned"), "{:.2f}"),
    ("moved, pixels", ("alignment", "pixels"), "{:.2f}"),
    ("turned, degrees", ("alignment", "degrees"), "{:.3f}"),
    ("moved, world units", ("alignment", "distance"), "{:.4f}"),
    ("shift, pixels", ("focus", "shift_pixels"), "{:.2f}"),
    ("sharpness, truth", ("focus", "sharpness_truth"), "{:.2f}"),
    ("prediction", ("focus", "sharpness_prediction"), "{:.2f}"),
    ("quotient", ("focus", "sharpness_ratio"), "{:.2f}"),
    ("gain by exposure, dB", ("focus", "exposure", "psnr_gain"), "{:.2f}"),
    ("z of PSNR", ("focus", "psnr_z"), "{:.1f}"),
)


def write_focus(folder: str | os.PathLike[str], *, title: str) -> Path:
    """Write ``focus.html`` beside the ``metrics.json`` of an evaluation.

    Args:
        folder: where ``metrics.json`` and the pictures it names are, ``eval/<split>`` of a run.
        title: what was measured.

    Returns:
        The path of the page, which appears whole or not at all. Pictures that are missing are left out, and named.

    Raises:
        MissingFileError: there is no ``metrics.json``.
        FormatError: it cannot be read.
    """
    source = Path(folder) / "metrics.json"
    try:
        metrics = json.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFileError(
            f"{source}: expected the result of an evaluation. Make one: voxfield eval RUN."
        ) from None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{source}: cannot be read ({error}). Evaluate again: voxfield eval RUN.") from None
    if not isinstance(metrics, dict):
        raise FormatError(f"{source}: expected a JSON object, got {type(metrics).__name__}. Evaluate again.")
    path = Path(folder) / FOCUS_NAME
    # A file name that is not Unicode must not cost the page.
    write_bytes(path, _Page(Path(folder), title, metrics).html().encode("utf-8", "replace"))
    return path


class _Page:
    """The page of one evaluation; one method a section."""

    def __init__(self, folder: Path, title: str, metrics: Mapping[str, Any]) -> None:
        self.folder, self.title, self.metrics = folder, title, metrics
        self.images = mappings_in(metrics.get("per_image"))
        self.images.sort(key=lambda item: item["psnr"] if is_number(item.get("psnr")) else -1.0)
        self.budget, self.faults = PICTURE_BYTES, list[str]()

    def html(self) -> str:
        sections = [
            f"<header><h1>{escape(self.title)}</h1></header>",
            cards(self._figures()),
            self._outliers(),
            self._pictures(),
            self._table(),
            self._meaning(),
        ]
        # Sections note faults while they are made: the list comes last.
        return document(f"{self.title} · focus · Voxfield", [*sections, bullet_list("Not shown", self.faults)])

    def _figures(self) -> Iterable[tuple[str, str]]:
        yield "pictures", str(len(self.images))
        yield "PSNR", number(self.metrics.get("psnr"), "{:.2f} dB")
        if is_number(self.metrics.get("psnr_aligned")):
            yield "PSNR aligned", number(self.metrics["psnr_aligned"], "{:.2f} dB")
        verdicts = self.metrics.get("verdicts")
        for words, count in verdicts.items() if isinstance(verdicts, Mapping) else ():
            yield words, number(count, "{:d}") if isinstance(count, int) else "–"

    def _outliers(self) -> str:
        lines = [
            f"{item.get('name', '')}: {number(item.get('psnr'), '{:.2f} dB')}, "
            f"{number(item.get('psnr_z'), '{:.1f}')} standard deviations, {item.get('verdict', '')}"
            for item in mappings_in(self.metrics.get("outliers"))
        ]
        return f"<section>{bullet_list('Outliers', lines)}</section>" if lines else ""

    def _pictures(self) -> str:
        shown = [part for part in map(self._picture, self.images[:MOST_PICTURES]) if part]
        if not shown:
            return ""
        left_out = len(self.images) - MOST_PICTURES
        more = f"<p>The {MOST_PICTURES} worst of {len(self.images)}.</p>" if left_out > 0 else ""
        return f"<section><h2>Pictures, the worst first</h2>{more}{''.join(shown)}</section>"

    def _picture(self, item: Mapping[str, Any]) -> str:
        if not isinstance(item.get("picture"), str):
            return ""
        # Only the last part: a metrics.json from elsewhere must not pull other files into the page.
        name = Path(item["picture"]).name
        aligned = item.get("picture_aligned")
        beside = self.folder / "aligned" / Path(aligned).name if isinstance(aligned, str) else None
        uri = embed_comparison(self.folder / name, beside, self.budget)
        if uri is None:
            self.faults.append(f"picture {name}: missing, broken, or past the size of a page")
            return ""
        self.budget -= len(uri) * 3 // 4
        labels = ["truth", "prediction", "error", *(["aligned", "error aligned"] if beside is not None else [])]
        heads = "".join(f"<span>{label}</span>" for label in labels)
        columns = f' style="grid-template-columns:repeat({len(labels)},1fr)"'
        text = escape(f"{picture_title(item, name)} · {_numbers_of(item)}")
        verdict = escape(_at(item, ("focus", "verdict")) or "")
        return (
            f'<h3>{escape(picture_title(item, name))}: {verdict}</h3><div class="heads"{columns}>{heads}</div>'
            f'<figure><img src="{uri}" alt="{text}"><figcaption>{text}</figcaption></figure>'
        )

    def _table(self) -> str:
        columns = [column for column in _COLUMNS if any(is_number(_at(item, column[1])) for item in self.images)]
        heads = "".join(f"<th>{label}</th>" for label, _, _ in columns)
        rows = "".join(
            f"<tr><th>{escape(item.get('name', ''))}<br>{escape(_at(item, ('focus', 'verdict')) or '')}</th>"
            + "".join(f"<td>{number(_at(item, keys), form)}</td>" for _, keys, form in columns)
            + "</tr>"
            for item in self.images
        )
        return (
            '<section><h2>Figures</h2><div style="overflow-x:auto"><table class="numbers">'
            f"<tr><th>picture</th>{heads}</tr>{rows}</table></div></section>"
        )

    def _meaning(self) -> str:
        words = "".join(f"<dt>{word}</dt><dd>{meaning}</dd>" for word, meaning in _WORDS.items())
        protocol = self.metrics.get("protocol")
        used = {key: protocol.get(key) for key in ("focus", "alignment")} if isinstance(protocol, Mapping) else {}
        notes = bullet_list("", [str(note) for note in list_in(self.metrics.get("notes"))])
        return f"<section><h2>What the words mean</h2><dl>{words}</dl>{settings_table(used)}{notes}</section>"


def _at(item: Mapping[str, Any], keys: Iterable[str]) -> Any:
    """The value at a path of keys, None where there is none."""
    value: Any = item
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _numbers_of(item: Mapping[str, Any]) -> str:
    """The caption's figures."""
    shown = [number(item.get("psnr"), "PSNR {:.2f} dB")]
    if is_number(item.get("psnr_aligned")):
        shown.append(number(item["psnr_aligned"], "aligned {:.2f} dB"))
        shown.append(number(_at(item, ("alignment", "pixels")), "moved {:.2f} pixels"))
    if is_number(_at(item, ("focus", "sharpness_ratio"))):
        shown.append(number(_at(item, ("focus", "sharpness_ratio")), "sharpness {:.2f} of the truth's"))
    return " · ".join(shown)
