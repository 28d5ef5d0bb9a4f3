import json
import re
from html.parser import HTMLParser

import pytest
import torch

from voxfield.errors import InputError, MissingFileError
from voxfield.export.report import MOST_PICTURES, PICTURE_BYTES, write_report
from voxfield.render.image import panel, write_png

EVIL = '<img src=x onerror="alert(1)">&"\''
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Parses strictly enough to catch unescaped text: every element must be closed in order."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attributes]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attributes]

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(self.texts)

    def values(self, tag, name):
        return [value for t, n, value in self.attributes if (t, n) == (tag, name)]


def log_lines(count=50, *, end=True):
    lines = [
        {"kind": "start", "recipe": "grid-ngp", "data": "scenes/lego", "seed": 42, "device": "cpu",
         "machine": {"cpu": "Xeon", "cores": 2}, "time": "2026-01-02T03:04:05+0000"},
    ]  # fmt: skip
    for i in range(1, count + 1):
        lines.append({"kind": "train", "step": 10 * i, "train_seconds": 2.0 * i, "loss": 1 / i, "psnr": 15 + i / 5,
                      "rays_per_second": 60_000 + i})  # fmt: skip
        if i % 10 == 0:
            lines.append({"kind": "eval", "step": 10 * i, "train_seconds": 2.0 * i, "split": "val", "psnr": 14 + i / 5})
    lines.append({"kind": "event", "message": "checkpoint written"})
    return [*lines, {"kind": "end", "reason": "finished"}] if end else lines


def metrics(names, **changes):
    images = [
        {"name": name, "psnr": 20.0 + i, "ssim": 0.8 + i / 100, "lpips": 0.2, "seconds": 0.5, "picture": f"p{i}.png"}
        for i, name in enumerate(names)
    ]
    return {
        "psnr": 28.123, "psnr_std": 1.5, "ssim": 0.91234, "ssim_std": 0.01, "lpips": 0.2, "lpips_std": None,
        "num_rays_per_sec": 251_000.0, "num_rays_per_sec_std": 900.0, "fps": 0.4, "fps_std": 0.01,
        "num_images": len(names), "per_image": images, "skipped": [{"name": "r_7", "reason": "truncated"}],
        "notes": ["1 image was skipped"],
        "protocol": {"background": "white", "split": "test", "images": list(names), "step": 500,
                     "ssim": {"window": 11, "sigma": 1.5, "border": "valid"},
                     "lpips": {"network": "ST-LPIPS (alex)", "files": {"a.pth": "01"}}},
        **changes,
    }  # fmt: skip


def write_run(folder, *, names=("r_0", "r_1"), size=(24, 20), lines=None, split="test", **changes):
    folder.mkdir(parents=True, exist_ok=True)
    entries = log_lines() if lines is None else lines
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    (folder / "experiment.json").write_text(json.dumps({
        "schema_version": 1, "recipe": "grid-ngp", "values": {"model": {"log2_table_size": 19}, "name": EVIL},
        "packages": {"torch": "2.13.0"},
    }))  # fmt: skip
    evaluated = folder / "eval" / split
    evaluated.mkdir(parents=True)
    (evaluated / "metrics.json").write_text(json.dumps(metrics(names, **changes)))
    for i in range(len(names)):
        generator = torch.Generator().manual_seed(i)
        image = torch.rand(*size, 3, generator=generator)
        write_png(evaluated / f"p{i}.png", panel(image, image * 0.9, image[..., 0]))
    return folder


def read(folder):
    path = write_report(folder)
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_a_finished_run(tmp_path):
    page = read(write_run(tmp_path / "lego"))
    for part in (
        "lego", "grid-ngp", "scenes/lego", "finished", "cpu: Xeon, cores: 2", "28.12 dB", "0.9123", "ST-LPIPS (alex)",
        "251,000 rays/s", "28.123 ± 1.500", "values.model.log2_table_size", "19", "checkpoint written",
        "r_7: truncated", "ssim.border", "1.7 min", "500", "1 image was skipped",
    ):  # fmt: skip
        assert part in page.text, part
    assert page.tags.count("svg") == 6
    assert len(page.values("img", "src")) == 2


@pytest.mark.parametrize(
    ("end", "shown"),
    [
        ({"peak_memory_bytes": 3 * 2**29}, "Peak memory 1.50 GiB"),
        ({"peak_memory_bytes": 2**30, "peak_device_memory_bytes": 2**31}, "1.00 GiB, 2.00 GiB on the device"),
        ({"peak_memory_bytes": None, "peak_device_memory_bytes": 2**31}, "Peak memory 2.00 GiB on the device"),
        ({"peak_memory_bytes": "much"}, None),
        ({}, None),
    ],
)
def test_peak_memory_is_shown_where_the_run_says_it(tmp_path, end, shown):
    lines = [*log_lines(5, end=False), {"kind": "end", "reason": "finished", **end}]
    text = " ".join(read(write_run(tmp_path / "run", lines=lines)).text.split())
    assert shown in text if shown else "Peak memory" not in text


def test_nothing_is_fetched_and_nothing_runs(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "renders").mkdir()
    (folder / "renders" / "orbit.mp4").write_bytes(b"\x00" * 100)
    text = write_report(folder).read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert not re.search(r"https?://|url\(|@import", text)
    assert all(src.startswith("data:") for tag in ("img", "video") for src in page.values(tag, "src"))
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


def test_hostile_names_stay_text(tmp_path):
    lines = [{**log_lines()[0], "recipe": EVIL, "data": EVIL, "machine": EVIL}, {"kind": "event", "message": EVIL},
             {"kind": "eval", "step": 1, "train_seconds": 1, "split": EVIL, "psnr": 20}]  # fmt: skip
    page = read(
        write_run(
            tmp_path / "<b>run", names=(EVIL, EVIL), lines=lines, notes=[EVIL], skipped=[{"name": EVIL, "reason": EVIL}]
        )
    )
    assert "onerror" not in [name for _, name, _ in page.attributes]
    assert all(src.startswith("data:image/") for src in page.values("img", "src"))
    assert page.text.count(EVIL) >= 6
    assert "<b>run" in page.text


def test_names_that_are_not_unicode(tmp_path):
    read(write_run(tmp_path / "run", names=("caf\udce9", "r_1")))


def test_a_run_that_has_only_begun(tmp_path):
    (tmp_path / "log.jsonl").write_text(json.dumps(log_lines()[0]) + '\n{"kind":"tra')
    page = read(tmp_path)
    assert "not finished" in page.text
    assert "Curves" not in page.text
    assert page.values("img", "src") == []


def test_a_run_in_the_middle_of_training(tmp_path):
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log_lines(end=False)))
    page = read(tmp_path)
    assert "not finished" in page.text
    assert "24.00 dB" in page.text, "the last evaluation stands in for metrics.json"
    assert page.tags.count("svg") == 6
    read(tmp_path)  # again, over the first


def test_only_settings(tmp_path):
    (tmp_path / "experiment.json").write_text('{"recipe": "grid-ngp"}')
    page = read(tmp_path)
    assert "grid-ngp" in page.text
    assert "nothing recorded yet" in page.text


def test_damaged_files_cost_only_their_part(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "experiment.json").write_text('{"recipe": ')
    (folder / "eval" / "test" / "p0.png").write_bytes(b"\x89PNG cut short")
    (folder / "eval" / "val").mkdir()
    (folder / "eval" / "val" / "metrics.json").write_text("[1, 2]")
    page = read(folder)
    assert len(page.values("img", "src")) == 1
    for part in ("experiment.json cannot be read", "picture test/p0.png: missing", "expected a JSON object, got list"):
        assert part in page.text, part


@pytest.mark.parametrize(
    "changes",
    [
        {"per_image": None, "skipped": 3, "notes": "text", "protocol": None},
        {"per_image": [1, "x", {}, {"picture": 5}, {"picture": "../../../etc/passwd"}], "psnr": "high", "fps": None},
        {"per_scale": [3, {}, {"scale": EVIL, "width": "x"}]},
        {"psnr": float("nan"), "num_rays_per_sec": float("inf"), "protocol": {"lpips": "alex"}},
    ],
)
def test_metrics_of_other_shapes(tmp_path, changes):
    read(write_run(tmp_path / "run", **changes))


def test_scales_have_a_table(tmp_path):
    scales = [
        {"scale": 1, "width": 800, "height": 600, "psnr": 30.5, "seconds": 4.0, "num_images": 2},
        {"scale": 8, "width": 100, "height": 75, "psnr": 33.25, "avg_error": 0.0125, "num_images": 2},
    ]
    images = [
        {"name": name, "scale": scale, "psnr": 20.0, "picture": f"p{i}.png"}
        for i, (name, scale) in enumerate((("r_0", 1), ("r_0", 8)))
    ]
    text = read(write_run(tmp_path / "run", per_scale=scales, per_image=images)).text
    assert "r_0 (1/8) · PSNR 20.00 dB" in text
    assert "r_0 (1/1)" not in text
    for part in ("test: scale by scale", "1/1 (800x600)", "1/8 (100x75)", "30.500", "33.250", "0.01250"):
        assert part in text, part
    assert "scale by scale" not in read(write_run(tmp_path / "one")).text


def test_log_of_another_kind(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b"\x00\x01\x02")
    assert "no line can be read" in read(tmp_path).text


@pytest.mark.parametrize("value", [None, "12", True, [], {"a": 1}])
def test_log_values_of_other_types(tmp_path, value):
    lines = [{"kind": "train", "step": value, "train_seconds": value, "loss": value, "psnr": value,
              "rays_per_second": value}, {"kind": "eval", "split": value, "psnr": value}]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    read(tmp_path)


def test_pictures_are_spread_from_worst_to_best(tmp_path):
    page = read(write_run(tmp_path / "run", names=[f"r_{i}" for i in range(29)]))
    captions = [text for text in page.texts if "PSNR" in text and "SSIM" in text]
    assert len(captions) == MOST_PICTURES
    assert captions[0].startswith("r_0 ")
    assert captions[-1].startswith("r_28 ")
    assert [int(c.split()[0][2:]) for c in captions] == [0, 4, 8, 12, 16, 20, 24, 28]


def test_page_stays_small(tmp_path):
    """Noise does not compress: the worst case for size."""
    folder = write_run(tmp_path / "run", names=[f"r_{i}" for i in range(5)], size=(1200, 300))
    renders = folder / "renders"
    renders.mkdir()
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (renders / name).write_bytes(b"\x00" * 2_000_000)
    (renders / "long one.mp4").write_bytes(b"\x00" * 9_000_000)
    path = write_report(folder)
    assert path.stat().st_size < 8_000_000
    page = Page(path.read_text())
    assert "past the size of a report" in page.text
    assert sum(len(src) for tag in ("img", "video") for src in page.values(tag, "src")) * 3 / 4 <= PICTURE_BYTES + 1000
    assert "renders/long%20one.mp4" in page.values("a", "href")


def test_test_split_comes_first(tmp_path):
    folder = write_run(tmp_path / "run", split="train", psnr=40.0)
    other = folder / "eval" / "test"
    other.mkdir()
    (other / "metrics.json").write_text(json.dumps(metrics(("r_0",), psnr=31.0)))
    page = read(folder)
    assert "PSNR, test" in page.text
    assert "31.00 dB" in page.text
    assert page.text.index("test: how it was measured") < page.text.index("train: how it was measured")


def test_folders_that_are_no_run(tmp_path):
    with pytest.raises(MissingFileError, match="expected a run directory, but there is no such folder"):
        write_report(tmp_path / "none")
    with pytest.raises(
        InputError, match=r"expected a run directory \(experiment\.json, log\.jsonl, eval/\), found none"
    ):
        write_report(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingFileError, match="no such folder"):
        write_report(tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
