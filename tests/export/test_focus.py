import json
import re
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from voxfield.errors import FormatError, MissingFileError
from voxfield.export.focus import MOST_PICTURES, write_focus
from voxfield.export.report_pictures import embed_comparison
from voxfield.render.image import SEPARATOR_PIXELS, panel, side_by_side, write_png

EVIL = '<img src=x onerror="alert(1)">&"\''
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Every element must be closed in order."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attributes]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] != "style":
            self.text += data + " "


def image(index, name=None, *, aligned=True, verdict="misaligned"):
    return {
        "name": name or f"r_{index}", "psnr": 30.0 - index, "picture": f"p{index}.png", "seconds": 0.5,
        "focus": {"sharpness_truth": 0.8, "sharpness_prediction": 0.4, "sharpness_ratio": 0.51, "shift_pixels": 2.25,
                  "exposure": {"gain": [1, 1, 1], "offset": [0, 0, 0], "psnr": 31.0, "psnr_gain": 0.1},
                  "psnr_z": -4.2, "verdict": verdict},
        **({"psnr_aligned": 33.0, "picture_aligned": f"aligned/p{index}.png",
            "alignment": {"degrees": 0.5, "distance": 0.01, "pixels": 2.31, "psnr_unseen": 25.0,
                          "psnr_unseen_aligned": 32.0}} if aligned else {}),
    }  # fmt: skip


def write_metrics(folder, images, **changes):
    folder.mkdir(exist_ok=True)
    metrics = {
        "psnr": 28.5, "psnr_aligned": 32.25, "verdicts": {"misaligned": len(images)}, "per_image": images,
        "outliers": [{"name": item["name"], "psnr": 9.0, "psnr_z": -8.0, "verdict": "misaligned"} for item in images],
        "notes": ["A note."], "protocol": {"focus": {"outlier_z": 3.5}, "alignment": {"steps": 100}}, **changes,
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))
    for index, item in enumerate(images):
        if not isinstance(item, dict):
            continue
        picture = torch.rand(20, 24, 3, generator=torch.Generator().manual_seed(index))
        write_png(folder / f"p{index}.png", panel(picture, picture * 0.9, picture[..., 0]))
        if "picture_aligned" in item:
            write_png(folder / "aligned" / f"p{index}.png", side_by_side([picture, picture]))
    return folder


def read(folder):
    return Page(write_focus(folder, title="lego, test").read_text(encoding="utf-8"))


def test_a_page_of_aligned_pictures(tmp_path):
    page = read(write_metrics(tmp_path, [image(i) for i in range(3)]))
    for part in (
        "lego, test", "28.50 dB", "32.25 dB", "Outliers", "r_2: misaligned", "PSNR 28.00 dB", "aligned 33.00 dB",
        "moved 2.31 pixels", "sharpness 0.51 of the truth's", "focus.outlier_z", "alignment.steps", "A note.", "error",
    ):  # fmt: skip
        assert part in page.text, part
    assert page.tags.count("img") == 3
    assert page.text.index("r_2: misaligned") < page.text.index("r_0: misaligned"), "the worst first"


def test_a_page_without_alignment(tmp_path):
    page = read(write_metrics(tmp_path, [image(0, aligned=False)], psnr_aligned=None))
    assert "PSNR aligned" not in page.text
    assert "turned, degrees" not in page.text
    assert page.tags.count("img") == 1


def test_nothing_is_fetched_and_names_stay_text(tmp_path):
    folder = write_metrics(tmp_path, [image(i, EVIL, verdict=EVIL) for i in range(2)], verdicts={EVIL: 2}, notes=[EVIL])
    text = write_focus(folder, title=EVIL).read_text(encoding="utf-8")
    page = Page(text)
    assert not re.search(r"https?://|url\(|@import", text)
    assert not {"script", "link"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert all(value.startswith("data:image/") for tag, name, value in page.attributes if (tag, name) == ("img", "src"))
    assert page.text.count(EVIL) >= 6


def test_only_the_worst_pictures_are_shown(tmp_path):
    page = read(write_metrics(tmp_path, [image(i) for i in range(MOST_PICTURES + 2)]))
    assert page.tags.count("img") == MOST_PICTURES
    assert f"The {MOST_PICTURES} worst of {MOST_PICTURES + 2}." in page.text


def test_missing_and_foreign_pictures(tmp_path):
    images = [image(0), {**image(1), "picture": "../../etc/passwd"}, {**image(2), "picture": 5}]
    folder = write_metrics(tmp_path / "test", images)
    (folder / "aligned" / "p0.png").write_bytes(b"broken")
    page = read(folder)
    assert page.tags.count("img") == 1, "what is there is shown without what is aligned"
    assert "picture passwd: missing" in page.text


@pytest.mark.parametrize(
    "changes",
    [
        {"per_image": None, "outliers": 3, "notes": "text", "protocol": None, "verdicts": [1]},
        {"per_image": [1, "x", {}, {"focus": 5}, {"focus": {"exposure": 3}, "psnr": "high"}], "psnr": "high"},
        {"verdicts": {"misaligned": "many"}, "protocol": {"focus": 3}, "outliers": [{}]},
    ],
)
def test_metrics_of_other_shapes(tmp_path, changes):
    read(write_metrics(tmp_path, [image(0)], **changes))


def test_metrics_that_cannot_be_read(tmp_path):
    with pytest.raises(MissingFileError, match="expected the result of an evaluation"):
        write_focus(tmp_path, title="x")
    (tmp_path / "metrics.json").write_text('{"psnr": ')
    with pytest.raises(FormatError, match=r"metrics\.json: cannot be read"):
        write_focus(tmp_path, title="x")
    (tmp_path / "metrics.json").write_text("[1]")
    with pytest.raises(FormatError, match="expected a JSON object, got list"):
        write_focus(tmp_path, title="x")


def test_comparisons_join_panel_and_aligned_pictures(tmp_path):
    import base64
    import io

    write_metrics(tmp_path, [image(0)])

    def width(uri):
        return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).width

    alone = embed_comparison(tmp_path / "p0.png", None, 1 << 20)
    assert width(alone) == 3 * 24 + 2 * SEPARATOR_PIXELS
    assert width(embed_comparison(tmp_path / "p0.png", tmp_path / "aligned/p0.png", 1 << 20)) == (
        5 * 24 + 4 * SEPARATOR_PIXELS
    )
    assert embed_comparison(tmp_path / "none.png", None, 1 << 20) is None
    assert embed_comparison(tmp_path / "p0.png", None, 10) is None
