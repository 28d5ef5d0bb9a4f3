"""What the HTML pages share: one file each, no script, no outside address, everything from files escaped."""

import html
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import voxfield
from voxfield.export.report_style import STYLE


def document(title: str, sections: Iterable[str]) -> str:
    """A whole page of sections, which are HTML already; empty ones are left out."""
    made = f"Made by Voxfield {voxfield.__version__}, {time.strftime('%Y-%m-%d %H:%M')}."
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(section for section in sections if section)
        + f"\n<footer>{escape(made)}</footer></main></body></html>\n"
    )


def cards(figures: Iterable[tuple[str, str]]) -> str:
    """(label, value) pairs as a row of cards."""
    inside = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(label)}</span></div>' for label, value in figures
    )
    return f'<section class="cards">{inside}</section>'


def escape(value: Any) -> str:
    """``value`` as text that cannot end the element or attribute it is put in."""
    return html.escape(str(value), quote=True)


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite int or float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, form: str) -> str:
    """``value`` as ``form`` (``"{:.2f} dB"``) writes it, or a dash where it is no number."""
    return form.format(value) if is_number(value) else "–"


def picture_title(item: Mapping[str, Any], fallback: str) -> str:
    """The name of a measured picture, with its scale where it is a reduced copy."""
    name, scale = str(item.get("name", fallback)), item.get("scale")
    return f"{name} (1/{scale})" if is_number(scale) and scale != 1 else name


def list_in(value: Any) -> list[Any]:
    """``value`` if it is a list, else an empty one: files may hold anything."""
    return value if isinstance(value, list) else []


def mappings_in(value: Any) -> list[Mapping[str, Any]]:
    """The mappings in ``value``, if it is a list."""
    return [item for item in list_in(value) if isinstance(item, Mapping)]


def bullet_list(title: str, lines: Sequence[str]) -> str:
    """``lines`` under a heading (none if empty), escaped; nothing of no lines."""
    if not lines:
        return ""
    head = f"<h3>{escape(title)}</h3>" if title else ""
    return head + "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def settings_table(values: Mapping[str, Any]) -> str:
    """Dotted paths and values of nested mappings as a table."""
    rows = "".join(f"<tr><th>{escape(path)}</th><td>{escape(text)}</td></tr>" for path, text in _flat(values))
    return f'<table class="settings">{rows}</table>'


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Dotted paths and values of nested mappings."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{path}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield path, text if len(text) <= 400 else text[:400] + " …"
