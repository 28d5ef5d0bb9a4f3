import pytest

NAMES = [f"rgb/{index}.jpg" for index in range(9)]


@pytest.fixture
def truth(captures):
    return captures.some_cameras()


@pytest.fixture
def folder(tmp_path, captures, truth):
    captures.write_record3d(tmp_path, truth)
    return tmp_path


@pytest.fixture
def edit(folder, captures):
    return lambda change: captures.edit_json(folder / "metadata.json", change)


def test_rays_are_those_of_the_recording(folder, truth, read, same_rays):
    same_rays(read(folder, "test").cameras, truth, [0, 8])
    same_rays(read(folder).cameras, truth, range(1, 8))


def test_pictures_are_in_order_of_their_number(folder, captures, read, truth):
    captures.write_record3d(folder, captures.some_cameras(12))
    assert read(folder).names == tuple(f"rgb/{index}.jpg" for index in range(1, 12) if index != 8)


def test_a_lens_of_its_own_wins(folder, edit, read):
    edit(lambda values: values["perFrameIntrinsicCoeffs"].__setitem__(8, [41, 42, 23, 17]))
    cameras = read(folder, "test").cameras
    assert cameras.focal.tolist() == [[40, 40], [41, 42]]
    assert cameras.principal.tolist() == [[25.5, 15.25], [23, 17]]


def test_older_recordings_have_one_lens(folder, edit, truth, read, same_rays):
    edit(lambda values: values.pop("perFrameIntrinsicCoeffs"))
    same_rays(read(folder, "test").cameras, truth, [0, 8])


def test_an_unpacked_archive_is_read(folder, truth, read, same_rays):
    (folder / "rgb").rename(folder / "rgbd")
    (folder / "metadata.json").rename(folder / "metadata")
    (folder / "rgbd/0.depth").write_bytes(b"lzfse")
    (folder / "rgbd/0.conf").write_bytes(b"lzfse")
    same_rays(read(folder, "test").cameras, truth, [0, 8])


def test_a_picture_that_is_gone_does_not_shift_the_poses(folder, truth, read, same_rays):
    (folder / "rgb/3.jpg").unlink()
    capture = read(folder)
    assert [item.path for item in capture.skipped] == ["rgb/3"]
    assert "rgb/3.jpg" not in capture.names
    same_rays(capture.cameras, truth, [1, 2, 4, 5, 6, 7, 8])


def test_numbers_from_one_are_matched_in_order(folder, truth, read, same_rays):
    for index in reversed(range(9)):
        (folder / f"rgb/{index}.jpg").rename(folder / f"rgb/{index + 1}.jpg")
    same_rays(read(folder, "test").cameras, truth, [0, 8])


def test_more_pictures_than_poses_are_an_error(folder, edit, message):
    edit(lambda values: values["poses"].pop())
    assert "holds 8 poses, but" in message(folder)


def test_no_pictures_are_an_error(folder, message):
    for picture in (folder / "rgb").iterdir():
        picture.unlink()
    assert "no picture 0.jpg" in message(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda values: values["poses"].__setitem__(4, [0, 0, 0, 1, 0, 0]), "7 numbers"),
        (lambda values: values["poses"].__setitem__(4, [0, 0, 0, 2, 0, 0, 0]), "unit quaternion"),
        (lambda values: values["poses"].__setitem__(4, [0, 0, 0, 0, 0, 0, 0]), "unit quaternion"),
        (lambda values: values["poses"].__setitem__(4, [0, 0, 0, float("nan"), 0, 0, 0]), "unit quaternion"),
        (lambda values: values["poses"].__setitem__(4, [0, 0, 0, 1, float("inf"), 0, 0]), "infinite"),
        (lambda values: values.update(poses={}), "expected 'poses'"),
        (lambda values: values.update(K=[0, 0, 0, 0, 40, 0, 24, 16, 1]), "focal lengths above 0"),
        (lambda values: values.update(K=[40, 0, 24, 0, 40, 16, 0, 0, 1]), "expected K to be fx 0 0 0 fy 0 cx cy 1"),
        (lambda values: values.update(K="no"), "expected K to be a list"),
        (lambda values: values.pop("K"), "no K"),
        (lambda values: values["perFrameIntrinsicCoeffs"].pop(), "an entry for each of the 9 poses"),
        (lambda values: values.pop("w"), "no picture size"),
        (lambda values: values["perFrameIntrinsicCoeffs"].__setitem__(2, [0, 40, 24, 16]), "focal lengths above 0"),
        (lambda values: values["perFrameIntrinsicCoeffs"].__setitem__(2, [40, 40, 24, 160]), "principal point inside"),
    ],
)
def test_malformed_recordings_are_errors(folder, edit, message, change, words):
    edit(change)
    said = message(folder)
    assert words in said
    assert str(folder / "metadata.json") in said
