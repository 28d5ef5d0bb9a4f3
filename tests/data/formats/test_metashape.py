import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from voxfield.data.formats import metashape_xml
from voxfield.errors import FormatError


@pytest.fixture
def truth(captures):
    return captures.some_cameras()


@pytest.fixture
def folder(tmp_path, captures, truth):
    captures.write_metashape(tmp_path, truth)
    return tmp_path


@pytest.fixture
def edit(folder):
    """Replace text in the export, once."""

    def change(old, new):
        file = folder / "cameras.xml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))

    return change


def test_rays_are_in_the_exported_world(folder, truth, read, same_rays):
    capture = read(folder, "test")
    assert capture.names == ("images/DSC0000.jpg", "images/DSC0008.jpg")
    same_rays(capture.cameras, truth, [0, 8])
    same_rays(read(folder / "cameras.xml").cameras, truth, range(1, 8))


def test_the_lens_projects_as_the_manual_says(tmp_path, captures, truth, read):
    coefficients = {"k1": 0.1, "k2": -0.05, "k3": 0.02, "k4": -0.01, "p1": 0.003, "p2": -0.002, "b1": 1.5}
    text = "".join(f"<{name}>{value}</{name}>" for name, value in coefficients.items())
    captures.write_metashape(tmp_path, truth, lens=captures.MetashapeLens(coefficients=text))
    cameras = read(tmp_path, "test").cameras
    local = torch.tensor([[0.3, -0.2, 1.0], [-0.4, 0.25, 1.0]], dtype=torch.float64)
    # Appendix D of the manual, word for word.
    x, y = local[:, 0], local[:, 1]
    r = torch.hypot(x, y)
    k1, k2, k3, k4, p1, p2, b1 = coefficients.values()
    radial = 1 + k1 * r**2 + k2 * r**4 + k3 * r**6 + k4 * r**8
    x2 = x * radial + (p1 * (r**2 + 2 * x**2) + 2 * p2 * x * y)
    y2 = y * radial + (p2 * (r**2 + 2 * y**2) + 2 * p1 * x * y)
    expected = torch.stack([48 * 0.5 + 1.5 + x2 * 40 + x2 * b1, 32 * 0.5 - 0.75 + y2 * 40], dim=1)
    pose = torch.from_numpy(captures.pose_opencv(truth, 0))
    world = local @ pose[:3, :3].T + pose[:3, 3]
    came, _ = cameras.project(torch.tensor([0, 0]), world.float())
    torch.testing.assert_close(came.double(), expected, atol=1e-4, rtol=0)


def test_fisheye_lenses_are_read(tmp_path, captures, truth, read):
    lens = captures.MetashapeLens(kind="fisheye", coefficients="<k1>0.01</k1><k2>-0.002</k2>")
    captures.write_metashape(tmp_path, truth, lens=lens)
    cameras = read(tmp_path, "test").cameras
    assert cameras.model == "fisheye"
    torch.testing.assert_close(cameras.distortion[0, :2], torch.tensor([0.01, -0.002]))


def test_a_rigs_cameras_follow_their_master(tmp_path, captures, truth, read):
    captures.write_metashape(tmp_path, truth, rig=True)
    test, train = read(tmp_path, "test"), read(tmp_path)
    assert len(test) + len(train) == 9
    # Chunk to world is a similarity: the rig's place is scaled with it.
    place = captures.RIG.copy()
    place[:3, 3] *= captures.WORLD_SCALE
    for index, cameras, at in ((0, train, 0), (2, train, 2), (4, train, 4)):
        slave = captures.pose_opencv(truth, index) @ place * np.array([1, -1, -1, 1.0])
        torch.testing.assert_close(
            cameras.cameras.camera_to_world[at].double(), torch.from_numpy(slave[:3]), atol=1e-5, rtol=0
        )


def test_older_exports_place_the_chunk(folder, truth, read, same_rays):
    file = folder / "cameras.xml"
    text = file.read_text()
    transform = re.search(r"<transform>\s*<rotation.*?</transform>", text, re.DOTALL).group()
    text = re.sub(r"<components.*?</components>", transform, text, flags=re.DOTALL).replace('component_id="0"', "")
    file.write_text(text)
    same_rays(read(folder, "test").cameras, truth, [0, 8])


def test_disabled_and_unaligned_cameras_are_skipped_and_counted(folder, edit, read):
    edit('label="DSC0003"', 'label="DSC0003" enabled="false"')
    edit('component_id="0" label="DSC0004"', 'label="DSC0004" enabled="0"')
    text = (folder / "cameras.xml").read_text()
    (folder / "cameras.xml").write_text(re.sub(r'(label="DSC0005">)<transform>.*?</transform>', r"\1", text))
    capture = read(folder)
    assert [item.path for item in capture.skipped] == ["DSC0003", "DSC0004", "DSC0005"]
    assert "disabled in Metashape" in capture.skipped[0].reason
    assert "disabled in Metashape" in capture.skipped[1].reason
    assert "not aligned" in capture.skipped[2].reason


def test_a_component_apart_is_skipped(folder, edit, truth, read, same_rays):
    edit('component_id="0" label="DSC0002"', 'component_id="7" label="DSC0002"')
    capture = read(folder)
    assert [item.path for item in capture.skipped] == ["DSC0002"]
    assert "align them in Metashape" in capture.skipped[0].reason
    same_rays(capture.cameras, truth, [1, 3, 4, 5, 6, 7, 8])


@pytest.mark.parametrize(
    ("coefficient", "words"),
    [("<b2>2</b2>", "skew"), ("<p3>0.1</p3>", "uses p3"), ("<k5>0.1</k5>", "uses k5")],
)
def test_lenses_that_cannot_be_expressed_are_said(tmp_path, captures, truth, message, coefficient, words):
    captures.write_metashape(tmp_path, truth, lens=captures.MetashapeLens(coefficients=coefficient))
    said = message(tmp_path)
    assert words in said
    assert "undistort" in said


def test_a_skew_below_a_quarter_pixel_is_rounding(tmp_path, captures, truth, read, same_rays):
    captures.write_metashape(tmp_path, truth, lens=captures.MetashapeLens(coefficients="<b2>0.01</b2>"))
    same_rays(read(tmp_path, "test").cameras, truth, [0, 8])


def test_other_sensors_are_said(tmp_path, captures, truth, message):
    captures.write_metashape(tmp_path, truth, lens=captures.MetashapeLens(kind="spherical"))
    assert "type 'spherical'" in message(tmp_path)


class TestPictures:
    def test_labels_may_have_endings_and_paths(self, folder, edit, read):
        edit('label="DSC0001"', 'label="DSC0001.jpg"')
        edit('label="DSC0002"', r'label="images\DSC0002.jpg"')
        assert read(folder).names[:2] == ("images/DSC0001.jpg", "images/DSC0002.jpg")

    def test_they_may_lie_beside_the_export(self, folder, truth, read, same_rays):
        for file in (folder / "images").iterdir():
            file.rename(folder / file.name)
        (folder / "images").rmdir()
        (folder / "masks").mkdir()
        shutil.copy(folder / "DSC0000.jpg", folder / "masks" / "DSC0000.jpg")
        capture = read(folder, "test")
        assert capture.names == ("DSC0000.jpg", "DSC0008.jpg")
        same_rays(capture.cameras, truth, [0, 8])

    def test_reduced_copies_are_not_mistaken_for_them(self, folder, read):
        (folder / "images").rename(folder / "cam_01")
        shutil.copytree(folder / "cam_01", folder / "cam_01_2")
        assert read(folder).names[0] == "cam_01/DSC0001.jpg"

    def test_groups_tell_equal_labels_apart(self, folder, captures, truth, read, edit, same_rays):
        captures.picture(folder / "images/left/DSC0001.jpg", 1)
        captures.picture(folder / "images/right/DSC0001.jpg", 1)
        (folder / "images/DSC0001.jpg").unlink()
        assert "2 pictures have this name" in read(folder).skipped[0].reason
        text = (folder / "cameras.xml").read_text()
        text = re.sub(r'(<camera id="1" .*?</camera>)', r'<group id="0" label="right" type="folder">\1</group>', text)
        (folder / "cameras.xml").write_text(text)
        capture = read(folder, "test")
        assert not capture.skipped
        # The last by path, and so the ninth.
        assert capture.names[-1] == "images/right/DSC0001.jpg"
        same_rays(capture.cameras, truth, [0, 1])

    def test_two_cameras_never_share_one(self, folder, edit, read):
        edit('label="DSC0002"', 'label="DSC0001"')
        capture = read(folder)
        assert "images/DSC0001.jpg" not in capture.names
        assert [item.path for item in capture.skipped] == ["DSC0001", "DSC0001"]
        assert "2 cameras mean images/DSC0001.jpg" in capture.skipped[0].reason

    def test_masks_are_used(self, folder, read):
        (folder / "masks").mkdir()
        mask = Image.new("L", (48, 32))
        mask.paste(255, (0, 0, 10, 32))
        mask.save(folder / "masks/DSC0000_mask.png")
        capture = read(folder, "test")
        assert int(capture.images.mask(0).sum()) == 320
        assert capture.images.mask(1) is None

    def test_labels_never_lead_outside(self, folder, edit, read):
        edit('label="DSC0001"', 'label="../../../etc/hosts"')
        with pytest.raises(FormatError, match="leads outside the data folder"):
            read(folder)


class TestHostileFiles:
    def test_entities_are_refused(self, folder, edit, message):
        edit("<document", '<!DOCTYPE d [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>\n<document')
        edit("Chunk 1", "&b;")
        assert "has a document type" in message(folder)

    def test_external_entities_are_refused(self, folder, edit, message):
        edit("<document", '<!DOCTYPE d [<!ENTITY x SYSTEM "secrets.txt">]>\n<document')
        assert "has a document type" in message(folder)

    def test_other_encodings_cannot_hide_them(self, folder, message):
        file = folder / "cameras.xml"
        file.write_bytes(file.read_text().replace("UTF-8", "UTF-16").encode("utf-16"))
        assert "not UTF-8 text" in message(folder, format="metashape")

    def test_huge_files_are_refused(self, folder, message, monkeypatch):
        monkeypatch.setattr(metashape_xml, "MOST_BYTES", 1000)
        assert "MiB" in message(folder)

    def test_several_chunks_are_an_error(self, folder, message):
        file = folder / "cameras.xml"
        chunk = re.search(r"<chunk.*</chunk>", file.read_text(), re.DOTALL).group()
        file.write_text(file.read_text().replace("</document>", f"{chunk}</document>"))
        assert "cameras of one Metashape chunk, got 2" in message(folder)

    def test_several_exports_are_an_error(self, folder, message):
        shutil.copy(folder / "cameras.xml", folder / "old.xml")
        assert "several exports of cameras (cameras.xml, old.xml)" in message(folder)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<f>40</f>", "<f>0</f>", "expected a focal length f above 0"),
        ("<f>40</f>", "<f>nan</f>", "1 finite numbers in <f>"),
        ("<f>40</f>", "", "expected a focal length f above 0, got 0"),
        ("<f>40</f>", "<f>1 2</f>", "1 finite numbers in <f>"),
        ('<resolution width="48"', '<resolution width="-48"', "resolution of whole pixels"),
        (
            'class="adjusted">\n        <resolution width="48"',
            'class="adjusted">\n        <resolution width="x"',
            "pixels",
        ),
        ("<transform>", "<transform>1 ", "16 finite numbers in <transform>"),
        ('<scale locked="true">0.25', '<scale locked="true">0', "a scale above 0"),
        ('<scale locked="true">0.25', '<scale locked="true">-1', "a scale above 0"),
        ('<rotation locked="true">0 -1 0', '<rotation locked="true">0 -3 0', "expected a rotation"),
        ("</document>", "", "not valid XML"),
        ("<chunk", "<chunks", "not valid XML"),
    ],
)
def test_malformed_exports_are_errors(folder, edit, message, old, new, words):
    text = (folder / "cameras.xml").read_text()
    if "resolution" in old and "class" not in old:
        # Of the calibration that is read.
        head, tail = text.split('class="adjusted"')
        (folder / "cameras.xml").write_text(f'{head}class="adjusted"{tail.replace(old, new, 1)}')
    elif old == "<transform>":
        head, tail = text.split("<cameras")
        (folder / "cameras.xml").write_text(f"{head}<cameras{tail.replace(old, new, 1)}")
    else:
        edit(old, new)
    said = message(folder)
    assert words in said
    assert str(folder / "cameras.xml") in said


def test_a_mirrored_pose_is_an_error(folder, message):
    file = folder / "cameras.xml"
    text = file.read_text()
    words = re.search(r"<transform>([^<]+)</transform><orientation>", text).group(1)
    matrix = np.array([float(word) for word in words.split()]).reshape(4, 4)
    matrix[:3, 0] *= -1
    file.write_text(text.replace(words, " ".join(map(str, matrix.ravel())), 1))
    assert "it mirrors" in message(folder)
