"""Numbers and mappings as the lines the verbs print."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voxfield.jobs.kernel_speed import KernelSpeed
    from voxfield.voxels.sparse_slice import Slice


def format_metric(metrics: Mapping[str, Any], name: str, digits: int) -> str:
    """``"31.42 ± 1.07"``, or "not measured"."""
    value, spread = metrics.get(name), metrics.get(f"{name}_std")
    if value is None:
        return "not measured"
    return f"{value:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread is not None else "")


def format_scales(metrics: Mapping[str, Any]) -> str:
    """The metrics of each scale and, last, their mean, as a table."""
    columns = (
        ("psnr", "{:.2f}"),
        ("ssim", "{:.4f}"),
        ("lpips", "{:.4f}"),
        ("avg_error", "{:.5f}"),
        ("seconds", "{:.3f}"),
    )

    def row(name: str, size: str, values: Mapping[str, Any]) -> list[str]:
        return [
            name,
            size,
            *(form.format(values[key]) if values.get(key) is not None else "-" for key, form in columns),
        ]

    rows = [
        row(f"1/{one['scale']}", f"{one['width']}x{one['height']}" if one.get("width") else "various", one)
        for one in metrics["per_scale"]
    ]
    header = ("scale", "pixels", "PSNR", "SSIM", "LPIPS", "avg error", "seconds")
    return format_table(header, [*rows, row("mean", "", metrics)])


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell, two spaces apart; no trailing blanks."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [header, *rows]]
    return "\n".join("  ".join(row).rstrip() for row in padded)


def format_nested(values: Mapping[str, Any], indent: int = 0) -> str:
    """A mapping as indented ``key  value`` lines; nested mappings go one step in, None is left out."""
    shown = {key: value for key, value in values.items() if value is not None}
    width = max((len(str(key)) for key, value in shown.items() if not isinstance(value, Mapping)), default=0)
    lines = []
    for key, value in shown.items():
        if isinstance(value, Mapping):
            lines.append(" " * indent + f"{key}")
            if value:
                lines.append(format_nested(value, indent + 2))
        else:
            lines.append(" " * indent + f"{key!s:<{width}}  {_format_value(value)}")
    return "\n".join(lines)


def format_volume(information: Mapping[str, Any]) -> str:
    """What `voxfield.volume_info` says of a file: its grids as a table, one line each."""
    rows = [_volume_row(grid) for grid in information["grids"]]
    version = information["codec"] if information["version"] is None else information["version"]
    lines = [f"{information['file']}: {information['format']} {version}, {information['file_size_mb']:.3f} MB"]
    if information["metadata"]:
        lines.append(format_nested({"metadata": information["metadata"]}))
    lines += ["", format_table(_VOLUME_COLUMNS, rows) if rows else "It has no grids."]
    unread = [grid for grid in information["grids"] if "unread" in grid]
    lines += [f"Values of {grid['name']} are not read: {grid['unread']}" for grid in unread]
    return "\n".join(lines)


_VOLUME_COLUMNS = (
    "grid",
    "type",
    "class",
    "active voxels",
    "bounding box",
    "voxel size",
    "transform",
    "values",
    "stored as",
)


def _volume_row(grid: Mapping[str, Any]) -> list[str]:
    """The cells of one grid."""
    kind = grid["type"] + (" (half)" if grid["half"] else "")
    if not grid["read"]:
        return [grid["name"], kind, "not read", *[""] * (len(_VOLUME_COLUMNS) - 3)]
    box = grid.get("bounding_box")
    bounds = f"{box['min']} to {box['max']}" if box else "nothing active" if "bounding_box" in grid else "not unpacked"
    size = sorted({f"{side:.6g}" for side in grid["voxel_size"]})
    edges = size[0] if len(size) == 1 else " x ".join(f"{side:.6g}" for side in grid["voxel_size"])
    moved = [f"moved by {_format_end(grid['translation'])}"] if any(grid["translation"]) else []
    turned = [grid["rotation"]] if grid["rotation"] else []
    found = grid.get("range")
    values = "" if "range" in grid else "not read"
    if found:
        values = f"{_format_end(found['min'])} to {_format_end(found['max'])}"
    shared = f"tree of {grid['shares_tree_of']!r}" if grid["shares_tree_of"] else grid["compression"]
    place = ", ".join(moved + turned)
    return [grid["name"], kind, grid["class"], f"{grid['active_voxels']:,}", bounds, edges, place, values, shared]


def _format_end(value: Any) -> str:
    """One end of a range, of vectors in brackets."""
    return f"({_format_value(value)})" if isinstance(value, list) else _format_value(value)


def format_slice(slice_: "Slice") -> str:
    """A slice as characters, below a line that says where it is."""
    from voxfield.voxels.sparse_slice import as_text

    (right, up), (first, second) = slice_.across, slice_.lower
    each = "" if slice_.voxels_per_pixel == 1 else f", {slice_.voxels_per_pixel} voxels each"
    return (
        f"{slice_.axis} = {slice_.at}; {right} from {first} to the right, {up} from {second} upwards{each}\n"
        f"{as_text(slice_.values)}"
    )


def _format_value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_format_value, value)) if value else "none"
    return str(value)


def format_rate(rate: float | None) -> str:
    """``4200000.0`` as ``"4.20 M/s"``."""
    if rate is None:
        return "-"
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rate >= factor:
            return f"{rate / factor:.3g} {letter}/s"
    return f"{rate:.3g} /s"


def format_kernel_speeds(kernels: Iterable["KernelSpeed"]) -> str:
    """Measured kernels as a table; one that failed says so in place of its rates."""
    rows = []
    for kernel in kernels:
        runs = kernel.implementation + (" (plain torch)" if kernel.implementation == "reference" else "")
        if kernel.error is not None:
            rows.append((kernel.op, runs, kernel.unit, "FAILS", "", ""))
        else:
            rates = (format_rate(kernel.forward), format_rate(kernel.both))
            rows.append((kernel.op, runs, kernel.unit, *rates, f"{kernel.first_call:.2f} s"))
    return format_table(("kernel", "runs as", "counting", "values", "with gradients", "first call"), rows)
