"""``report.html``: what a run did, on one page that needs nothing else.

Curves, pictures, metrics with their protocol, settings and events, as inline CSS, SVG and data URIs: no script, no
outside address, so the file can be mailed, archived and opened without a network. It follows the reader's dark or
light preference. Everything that comes from files is escaped: names of images and runs may hold anything.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.export.curves import Point, Series, chart
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
from voxfield.export.report_pictures import embed_panel, embed_video
from voxfield.storage.atomic import write_bytes
from voxfield.storage.run_log import LOG_NAME, read_log

REPORT_NAME = "report.html"

MOST_PICTURES = 8
"""Panels of one split shown, spread evenly from the worst to the best PSNR."""

PICTURE_BYTES = 5_000_000
"""Bytes of encoded pictures and video embedded at most, so that the page stays below 8 MB as base64 text."""

_MOST_CURVES = 4
"""Measures drawn of a run on other data than photographs, in the order its log names them."""

_MEASURES = {"psnr": "PSNR, dB"}

_SPLIT_ORDER = ("test", "val", "train")


def write_report(run_dir: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` into a run directory from what is there; also for a run that has not finished.

    Files of the run that are missing or damaged leave their part of the page out, with a line that says so.

    Args:
        run_dir: the run directory.

    Returns:
        The path of the report, which appears whole or not at all.

    Raises:
        MissingFileError: when there is no such folder.
        InputError: when the folder is no run directory.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: expected a run directory, but there is no such folder.")
    if not any((folder / name).exists() for name in ("experiment.json", LOG_NAME, "eval")):
        raise InputError(
            f"{folder}: expected a run directory (experiment.json, {LOG_NAME}, eval/), found none of these. "
            "Give the folder that voxfield train wrote."
        )
    path = folder / REPORT_NAME
    # A file name that is not Unicode must not cost the report.
    write_bytes(path, _Page(folder).html().encode("utf-8", "replace"))
    return path


class _Page:
    """The page of one run; one method a section."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: list[str] = []
        self.budget = PICTURE_BYTES
        self.log = self._read_log()
        self.experiment = self._read_json(folder / "experiment.json") or {}
        self.metrics = self._read_metrics()
        self.start: dict[str, Any] = next((e for e in reversed(self.log) if e.get("kind") == "start"), {})

    def html(self) -> str:
        title = f"{self.folder.resolve().name} · Voxfield"
        sections = [
            self._header(),
            self._pictures(),
            self._curves(),
            self._metrics(),
            self._settings(),
            self._events(),
        ]
        # Sections note faults while they are made: the list comes last.
        faults = bullet_list("Not shown", self.faults)
        return document(title, [*sections, faults])

    # ------------------------------------------------------------------------------------------------ sections

    def _header(self) -> str:
        recipe = self.start.get("recipe") or self.experiment.get("recipe")
        data = self.start.get("data") or self.experiment.get("data_path")
        facts = [
            ("Recipe", recipe),
            ("Data", data),
            ("State", self._state()),
            ("Machine", _text(self.start.get("machine") or self.experiment.get("machine"))),
            ("Device", _text(self.start.get("device"))),
            ("Peak memory", self._peak_memory()),
            ("Started", self.start.get("time")),
        ]
        rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts if value)
        return f"<header><h1>{escape(self.folder.resolve().name)}</h1><dl>{rows}</dl></header>" + cards(self._figures())

    def _state(self) -> str:
        if not self.log:
            return "nothing recorded yet"
        last = self.log[-1]
        if last.get("kind") == "end":
            return str(last.get("reason", "ended"))
        return "not finished: still running, or stopped without notice"

    def _peak_memory(self) -> str:
        """The most that the process held, and on an accelerator its tensors; nothing of runs that did not say."""
        end: dict[str, Any] = self.log[-1] if self.log and self.log[-1].get("kind") == "end" else {}
        places = (("peak_memory_bytes", ""), ("peak_device_memory_bytes", " on the device"))
        return ", ".join(f"{end[name] / 2**30:.2f} GiB{place}" for name, place in places if is_number(end.get(name)))

    def _figures(self) -> Iterable[tuple[str, str]]:
        """The few numbers that matter most."""
        train = [e for e in self.log if e.get("kind") == "train"]
        held_out = [e for e in self.log if e.get("kind") == "eval"]
        if self.metrics and "psnr" not in next(iter(self.metrics.values())):
            split, metrics = next(iter(self.metrics.items()))
            plain = list(_numbers_in(metrics))[:_MOST_CURVES]
            yield from ((f"{name.replace('_', ' ')}, {split}", number(value, "{:.4g}")) for name, value in plain)
        elif self.metrics:
            split, metrics = next(iter(self.metrics.items()))
            yield f"PSNR, {split}", number(metrics.get("psnr"), "{:.2f} dB")
            yield f"SSIM, {split}", number(metrics.get("ssim"), "{:.4f}")
            if metrics.get("lpips") is not None:
                yield f"{_network(metrics)}, {split}", number(metrics["lpips"], "{:.4f}")
            yield "rendering", number(metrics.get("num_rays_per_sec"), "{:,.0f} rays/s")
        elif held_out and "psnr" in held_out[-1]:
            yield f"PSNR, {held_out[-1].get('split', 'held out')}", number(held_out[-1].get("psnr"), "{:.2f} dB")
        if train:
            yield "training time", number(_minutes(train[-1]), "{:.1f} min")
            yield "steps", number(train[-1].get("step"), "{:,}")
            unit = _unit(train)
            rates = [e[f"{unit}_per_second"] for e in train if is_number(e.get(f"{unit}_per_second"))]
            if rates:
                # The median is not moved by the first steps, which are not the steady state.
                yield "training", number(sorted(rates)[len(rates) // 2], f"{{:,.0f}} {unit}/s")

    def _pictures(self) -> str:
        parts: list[str] = []
        for split, metrics in self.metrics.items():
            figures = [self._figure_of(split, item) for item in _spread(metrics.get("per_image"))]
            shown = [figure for figure in figures if figure]
            if shown:
                heads = "".join(f"<span>{name}</span>" for name in ("truth", "prediction", "error", "depth"))
                parts.append(f'<h3>{escape(split)}</h3><div class="heads">{heads}</div>' + "".join(shown))
        renders = self._renders()
        if not parts and not renders:
            return ""
        return f"<section><h2>Pictures</h2>{''.join(parts)}{renders}</section>"

    def _figure_of(self, split: str, item: Mapping[str, Any]) -> str:
        picture = item.get("picture")
        if not isinstance(picture, str):
            return ""
        # Only the last part: a metrics.json from elsewhere must not pull other files into the page.
        path = self.folder / "eval" / split / Path(picture).name
        uri = embed_panel(path, self.budget)
        if uri is None:
            self.faults.append(f"picture {split}/{Path(picture).name}: missing, broken, or past the size of a report")
            return ""
        self.budget -= len(uri) * 3 // 4
        caption = [picture_title(item, picture)]
        caption += [number(item.get("psnr"), "PSNR {:.2f} dB")] if is_number(item.get("psnr")) else []
        caption += [number(item.get("ssim"), "SSIM {:.4f}")] if is_number(item.get("ssim")) else []
        text = escape(" · ".join(caption))
        return f'<figure><img src="{uri}" alt="{text}"><figcaption>{text}</figcaption></figure>'

    def _renders(self) -> str:
        files = sorted((self.folder / "renders").rglob("*.mp4")) if (self.folder / "renders").is_dir() else []
        parts = []
        for path in files:
            relative = path.relative_to(self.folder).as_posix()
            uri = embed_video(path, self.budget)
            if uri is not None:
                self.budget -= len(uri) * 3 // 4
                parts.append(f'<video src="{uri}" controls loop muted playsinline></video>')
            parts.append(f'<p><a href="{escape(quote(relative))}">{escape(relative)}</a></p>')
        return "<h3>Renders</h3>" + "".join(parts) if parts else ""

    def _curves(self) -> str:
        train = [e for e in self.log if e.get("kind") == "train"]
        if not train and not any(e.get("kind") == "eval" for e in self.log):
            return ""
        charts: list[str] = []
        for x_label, x in (("minutes of training", _minutes), ("steps", lambda e: e.get("step"))):
            splits = dict.fromkeys(str(e.get("split", "held out")) for e in self.log if e.get("kind") == "eval")
            for name in self._measured(train):
                series = [Series(label=f"training {_unit(train)}", points=_points(train, x, name))]
                for split in list(splits)[:3]:
                    lines = [
                        e for e in self.log if e.get("kind") == "eval" and str(e.get("split", "held out")) == split
                    ]
                    series.append(Series(label=split, points=_points(lines, x, name), dots=True))
                charts.append(chart(_MEASURES.get(name, name.replace("_", " ")), x_label, series))
            charts.append(chart("Loss", x_label, [Series(label="loss", points=_points(train, x, "loss"))], log_y=True))
            rate = Series(label=f"{_unit(train)}/s", points=_points(train, x, f"{_unit(train)}_per_second"))
            charts.append(chart(f"Training {_unit(train)} per second", x_label, [rate]))
        return f'<section><h2>Curves</h2><div class="charts">{"".join(charts)}</div></section>'

    def _measured(self, train: list[dict[str, Any]]) -> list[str]:
        """Which measures have a curve: of photographs PSNR; of other data all that a step or an evaluation names."""
        held_out = [e for e in self.log if e.get("kind") == "eval"]
        last = {**(held_out[-1] if held_out else {}), **(train[-1] if train else {})}
        if "psnr" in last or not last:
            return ["psnr"]
        return [name for name, value in last.items() if is_number(value) and not _is_bookkeeping(name)][:_MOST_CURVES]

    def _metrics(self) -> str:
        if not self.metrics:
            return ""
        if not any("psnr" in metrics for metrics in self.metrics.values()):
            tables = (f"<h3>{escape(split)}</h3>{settings_table(metrics)}" for split, metrics in self.metrics.items())
            return f"<section><h2>Metrics</h2>{''.join(tables)}</section>"
        table = _numbers_table("split", [(split, metrics) for split, metrics in self.metrics.items()])
        details = "".join(self._measurement(split, metrics) for split, metrics in self.metrics.items())
        return f"<section><h2>Metrics</h2>{table}<p>Mean ± standard deviation over images.</p>{details}</section>"

    def _measurement(self, split: str, metrics: Mapping[str, Any]) -> str:
        """How a split was measured, what went wrong, and the numbers of each image."""
        protocol = metrics.get("protocol")
        shown = {k: v for k, v in protocol.items() if k != "images"} if isinstance(protocol, Mapping) else {}
        images = mappings_in(metrics.get("per_image"))
        rows = "".join(
            f"<tr><th>{escape(picture_title(item, ''))}</th>"
            + "".join(f"<td>{number(item.get(k), form)}</td>" for k, form in _IMAGE_COLUMNS)
            + "</tr>"
            for item in images
        )
        heads = "".join(f"<th>{name}</th>" for name in ("image", "PSNR, dB", "SSIM", "LPIPS", "seconds"))
        skipped = [f"{item.get('name')}: {item.get('reason')}" for item in mappings_in(metrics.get("skipped"))]
        scales = [(_scale_name(item), item) for item in mappings_in(metrics.get("per_scale"))]
        by_scale = f"<h3>{escape(split)}: scale by scale</h3>{_numbers_table('scale', scales)}" if scales else ""
        return (
            f"{by_scale}<h3>{escape(split)}: how it was measured</h3>{settings_table(shown)}"
            + bullet_list("", [str(note) for note in list_in(metrics.get("notes"))])
            + bullet_list("Skipped images", skipped)
            + f"<details><summary>{len(images)} images</summary>"
            + f'<table class="numbers"><tr>{heads}</tr>{rows}</table></details>'
        )

    def _settings(self) -> str:
        if not self.experiment:
            return ""
        return f"<section><h2>Settings</h2>{settings_table(self.experiment)}</section>"

    def _events(self) -> str:
        lines = []
        for entry in self.log:
            kind = entry.get("kind")
            if kind == "event":
                lines.append(str(entry.get("message", "")))
            elif kind == "start":
                lines.append(f"start {entry.get('time', '')}".rstrip())
            elif kind == "end":
                lines.append(f"end: {entry.get('reason', '')}")
        inside = "".join(f"<li>{escape(line)}</li>" for line in lines)
        return f"<section><h2>Events</h2><ol>{inside}</ol></section>" if lines else ""

    # ------------------------------------------------------------------------------------------------ files

    def _read_log(self) -> list[dict[str, Any]]:
        try:
            return read_log(self.folder)
        except MissingFileError:
            return []
        except (FormatError, OSError) as error:
            self.faults.append(str(error))
            return []

    def _read_json(self, path: Path) -> dict[str, Any] | None:
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            self.faults.append(f"{path.name} cannot be read: {error}")
            return None
        if not isinstance(value, dict):
            self.faults.append(f"{path.name} cannot be read: expected a JSON object, got {type(value).__name__}")
            return None
        return value

    def _read_metrics(self) -> dict[str, dict[str, Any]]:
        """Metrics by split, held-out splits first."""
        folders = [p for p in (self.folder / "eval").iterdir() if p.is_dir()] if (self.folder / "eval").is_dir() else []
        order = {name: index for index, name in enumerate(_SPLIT_ORDER)}
        folders.sort(key=lambda p: (order.get(p.name, len(order)), p.name))
        read = {folder.name: self._read_json(folder / "metrics.json") for folder in folders}
        return {split: metrics for split, metrics in read.items() if metrics is not None}


_MEAN_COLUMNS = (
    ("psnr", "PSNR, dB", "{:.3f}"),
    ("ssim", "SSIM", "{:.4f}"),
    ("lpips", "LPIPS", "{:.4f}"),
    ("avg_error", "avg error", "{:.5f}"),
    ("seconds", "seconds", "{:.3f}"),
    ("num_rays_per_sec", "rays/s", "{:,.0f}"),
    ("fps", "frames/s", "{:.3g}"),
)
_IMAGE_COLUMNS = (("psnr", "{:.3f}"), ("ssim", "{:.4f}"), ("lpips", "{:.4f}"), ("seconds", "{:.3f}"))


def _text(value: Any) -> str:
    """A machine line as a person reads it, whether it was recorded as text or as fields."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_text(item)}" for key, item in value.items())
    return "" if value is None else str(value)


def _minutes(entry: Mapping[str, Any]) -> float | None:
    seconds = entry.get("train_seconds")
    return seconds / 60.0 if isinstance(seconds, int | float) and is_number(seconds) else None


def _unit(train: Sequence[Mapping[str, Any]]) -> str:
    """What a training's examples are, by the names in its log: rays of those that do not say."""
    names = [name for entry in train[-1:] for name in entry if name.endswith("_per_second")]
    return names[0].removesuffix("_per_second") if names else "rays"


def _numbers_in(metrics: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """What was measured, by names such as ``seen hit_f1``."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _numbers_in(value, f"{prefix}{name} ")
        elif is_number(value) and not _is_bookkeeping(name):
            yield f"{prefix}{name}", value


def _is_bookkeeping(name: str) -> bool:
    return name in {"step", "train_seconds", "loss", "lr"} or name.startswith("num_") or name.endswith("_per_second")


def _points(entries: Iterable[Mapping[str, Any]], x: Callable[[Mapping[str, Any]], Any], name: str) -> list[Point]:
    pairs: Iterable[tuple[Any, Any]] = ((x(entry), entry.get(name)) for entry in entries)
    return [(float(a), float(b)) for a, b in pairs if is_number(a) and is_number(b)]


def _spread(images: Any) -> list[Mapping[str, Any]]:
    """At most ``MOST_PICTURES`` images, from the worst to the best PSNR in even steps of rank."""
    items = mappings_in(images)
    items.sort(key=lambda item: item["psnr"] if is_number(item.get("psnr")) else -1.0)
    if len(items) <= MOST_PICTURES:
        return items
    return [items[round(i * (len(items) - 1) / (MOST_PICTURES - 1))] for i in range(MOST_PICTURES)]


def _scale_name(metrics: Mapping[str, Any]) -> str:
    """``1/4 (200x150)``."""
    size = [metrics.get("width"), metrics.get("height")]
    return f"1/{metrics.get('scale')}" + (f" ({size[0]}x{size[1]})" if all(map(is_number, size)) else "")


def _numbers_table(heading: str, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """Means and spreads of named sets of images as a table."""
    lines = []
    for name, metrics in rows:
        cells = "".join(f"<td>{_mean_and_std(metrics, key, form)}</td>" for key, _, form in _MEAN_COLUMNS)
        lines.append(f"<tr><th>{escape(name)}</th>{cells}<td>{escape(metrics.get('num_images', ''))}</td></tr>")
    heads = "".join(f"<th>{label}</th>" for _, label, _ in _MEAN_COLUMNS)
    return f'<table class="numbers"><tr><th>{escape(heading)}</th>{heads}<th>images</th></tr>{"".join(lines)}</table>'


def _network(metrics: Mapping[str, Any]) -> str:
    """The name LPIPS results must be read under."""
    protocol = metrics.get("protocol")
    lpips = protocol.get("lpips") if isinstance(protocol, Mapping) else None
    return str(lpips.get("network", "LPIPS")) if isinstance(lpips, Mapping) else "LPIPS"


def _mean_and_std(metrics: Mapping[str, Any], name: str, form: str) -> str:
    mean, spread = metrics.get(name), metrics.get(f"{name}_std")
    text = number(mean, form) + (f" ± {number(spread, form)}" if is_number(spread) else "")
    if name == "lpips" and is_number(mean):
        text += f"<br>{escape(_network(metrics))}"
    return text
