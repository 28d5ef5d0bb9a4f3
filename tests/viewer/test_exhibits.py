"""Files that a browser draws by itself."""

import struct
from pathlib import Path

import numpy as np
import pytest

from voxfield.errors import FormatError, MissingFileError, VoxfieldError
from voxfield.storage.vdb import VdbGrid, write_vdb
from voxfield.viewer import exhibits
from voxfield.viewer.exhibits import Exhibited, load_or_say, open_exhibit
from voxfield.voxels.sparse import SparseVolume


def only(path: Path) -> Exhibited:
    exhibit = open_exhibit(path)
    return exhibit.load(exhibit.items[0])


def fog(path: Path) -> Path:
    dense = np.zeros((4, 5, 6), np.float32)
    dense[1, 2, 3], dense[3, 4, 5] = 0.5, 2.0
    matrix = np.diag([0.1, 0.1, 0.1, 1.0])
    matrix[:3, 3] = 7.0
    grid = VdbGrid(name="density", volume=SparseVolume.from_dense(dense), index_to_world=matrix)
    other = VdbGrid(name="other", volume=SparseVolume.from_dense(dense + 1))
    return write_vdb(path, [grid, other], compression="zip")


def test_a_volume_shows_its_active_voxels_where_they_stand_in_the_world(tmp_path: Path) -> None:
    exhibit = open_exhibit(fog(tmp_path / "fog.vdb"))
    assert exhibit.items == ("density", "other")
    shown = exhibit.load("density")
    assert sorted(shown.points.tolist()) == [pytest.approx([7.3, 7.2, 7.1]), pytest.approx([7.5, 7.4, 7.3])]
    assert sorted(shown.values.tolist()) == [0.0, 1.0]
    assert shown.spacing == pytest.approx(0.1)
    assert "2 active voxels" in shown.note
    assert "0.5 to 2" in shown.note
    points, scale = shown.placed()
    assert np.abs(points).max() <= 1.0
    assert scale == pytest.approx(2.0 / 0.3)


def test_of_a_level_set_the_inner_half_of_its_band_is_shown(tmp_path: Path) -> None:
    dense = np.linspace(-3, 3, 27, dtype=np.float32).reshape(3, 3, 3)
    volume = SparseVolume.from_dense(dense, background=3.0, active=np.ones((3, 3, 3), bool))
    path = write_vdb(tmp_path / "ball.vdb", [VdbGrid(name="ball", volume=volume, grid_class="level set")])
    assert len(only(path).points) == 14


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5)])
def test_an_array_shows_the_voxels_that_are_not_zero(tmp_path: Path, shape: tuple[int, ...]) -> None:
    volume = np.zeros(shape, np.float32)
    volume[..., 1, 2, 3] = -2.0
    volume[..., 0, 0, 0] = 1.0
    np.save(tmp_path / "volume.npy", volume)
    shown = only(tmp_path / "volume.npy")
    assert sorted(shown.points.tolist()) == [[0, 0, 0], [3, 2, 1]]
    assert "2 voxels of" in shown.note


def test_an_array_of_points_shows_them_in_their_colours(tmp_path: Path) -> None:
    rows = np.array([[0, 0, 0, 1.0, 0, 0], [1, 2, 3, 0, 0.5, 0], [np.nan, 0, 0, 0, 0, 0]])
    np.save(tmp_path / "cloud.npy", rows)
    shown = only(tmp_path / "cloud.npy")
    assert shown.points.tolist() == [[0, 0, 0], [1, 2, 3]]
    assert shown.colours.tolist() == [[255, 0, 0], [0, 127, 0]]
    np.save(tmp_path / "plain.npy", rows[:, :3])
    assert only(tmp_path / "plain.npy").spacing == 0.0


def test_bytes_of_a_dark_cloud_are_not_taken_for_shares(tmp_path: Path) -> None:
    np.save(tmp_path / "dark.npy", np.array([[0, 0, 0, 1, 0, 0], [9, 9, 9, 0, 1, 1]], np.int32))
    assert only(tmp_path / "dark.npy").colours.tolist() == [[1, 0, 0], [0, 1, 1]]


PLACES = np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0], [-4.0, 0.5, 0.25]])


def write_las(path: Path) -> None:
    laspy = pytest.importorskip("laspy", reason="needs laspy")
    cloud = laspy.create()
    cloud.header.scales = [0.001] * 3
    cloud.x, cloud.y, cloud.z = PLACES.T
    cloud.write(str(path))


def write_pcd(path: Path) -> None:
    head = "VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 3\nHEIGHT 1\nPOINTS 3\nDATA ascii\n"
    path.write_text(head + "\n".join(" ".join(map(str, row)) for row in PLACES))


CLOUDS = {
    "a.xyz": lambda path: np.savetxt(path, PLACES),
    "a.CSV": lambda path: np.savetxt(path, PLACES, delimiter=",", header="x,y,z", comments=""),
    "a.txt": lambda path: np.savetxt(path, PLACES),
    "a.pcd": write_pcd,
    "a.las": write_las,
    "a.laz": write_las,
    "a.npz": lambda path: np.savez(path, points=PLACES),
}


@pytest.mark.parametrize("name", CLOUDS)
def test_point_clouds_of_every_format_are_drawn(tmp_path: Path, name: str) -> None:
    CLOUDS[name](tmp_path / name)
    exhibit = open_exhibit(tmp_path / name)
    assert exhibit.items == ("a",)
    shown = exhibit.load("a")
    np.testing.assert_allclose(shown.points, PLACES, atol=1e-6)
    assert (shown.faces, shown.values, shown.note) == (None, None, "3 points.")
    # Coloured by height: the highest point differs from the lowest.
    assert shown.colours[1].tolist() != shown.colours[0].tolist()


def test_an_archive_of_several_clouds_offers_each(tmp_path: Path) -> None:
    np.savez(tmp_path / "many.npz", chairs=np.stack([PLACES, PLACES + 1]), table=PLACES[:2])
    exhibit = open_exhibit(tmp_path / "many.npz")
    assert exhibit.items == ("cloud 0", "cloud 1", "cloud 2")
    assert exhibit.load("cloud 1").points.tolist() == (PLACES + 1).tolist()
    assert exhibit.load("cloud 2").points.tolist() == PLACES[:2].tolist()


def test_a_folder_offers_its_clouds_but_not_its_notes(tmp_path: Path) -> None:
    for name in ("b.xyz", "a.pcd", "notes.txt", "readme.md"):
        write_pcd(tmp_path / name) if name.endswith("pcd") else np.savetxt(tmp_path / name, PLACES)
    exhibit = open_exhibit(tmp_path)
    assert exhibit.items == ("a.pcd", "b.xyz")
    assert len(exhibit.load("b.xyz").points) == 3


def test_a_mesh_is_drawn_as_triangles(tmp_path: Path) -> None:
    path = tmp_path / "mesh.obj"
    path.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv nan 0 0\nf 1 2 3\nf 1 2 4\n")
    shown = only(path)
    assert shown.faces.tolist() == [[0, 1, 2]]
    assert np.isfinite(shown.placed()[0]).all()


def test_a_ply_without_triangles_is_a_cloud(tmp_path: Path) -> None:
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 2\nproperty float x\nproperty float y\n"
    header += "property float z\nproperty uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
    rows = struct.pack("<3f3B3f3B", 0, 0, 0, 255, 0, 0, 1, 2, 3, 0, 200, 0)
    (tmp_path / "cloud.ply").write_bytes(header.encode() + rows)
    shown = only(tmp_path / "cloud.ply")
    assert shown.faces is None
    assert shown.colours.tolist() == [[255, 0, 0], [0, 200, 0]]


def test_a_voxel_dataset_shows_its_objects(tmp_path: Path) -> None:
    import voxfield

    (tmp_path / "box.obj").write_text(
        "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 0 0 1\nv 1 0 1\nv 1 1 1\nv 0 1 1\n"
        "f 1 3 2\nf 1 4 3\nf 5 6 7\nf 5 7 8\nf 1 2 6\nf 1 6 5\nf 2 3 7\nf 2 7 6\nf 3 4 8\nf 3 8 7\nf 4 1 5\nf 4 5 8\n"
    )
    voxfield.build_shapes(
        [tmp_path / "box.obj"], tmp_path / "set", resolution=16, min_resolution=4, workers=1, quiet=True
    )
    exhibit = open_exhibit(tmp_path / "set")
    assert exhibit.items == ("object 0",)
    shown = exhibit.load("object 0")
    assert 100 < len(shown.points) <= 16**3
    assert "16³" in shown.note


def test_a_folder_offers_its_files_and_nothing_beyond_it(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    fog(folder / "fog.vdb")
    np.save(folder / "a.npy", np.ones((2, 2, 2)))
    np.save(outside / "secret.npy", np.ones((2, 2, 2)))
    (folder / "notes.txt").write_text("no")
    (folder / "link.npy").symlink_to(outside / "secret.npy")
    exhibit = open_exhibit(folder)
    assert exhibit.items == ("a.npy", "fog.vdb")
    assert len(exhibit.load("fog.vdb").points) == 2
    for name in ("../outside/secret.npy", "link.npy", "notes.txt"):
        assert "There is no" in str(load_or_say(exhibit, name))


def test_more_points_than_can_be_drawn_are_thinned_and_said(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(exhibits, "MOST_POINTS", 10)
    np.save(tmp_path / "volume.npy", np.arange(1, 65).reshape(4, 4, 4))
    shown = only(tmp_path / "volume.npy")
    assert len(shown.points) == len(shown.colours) == len(shown.values) == 10
    assert "10 of them are drawn" in shown.note


def test_a_file_that_goes_while_it_is_looked_at_is_said(tmp_path: Path) -> None:
    exhibit = open_exhibit(fog(tmp_path / "fog.vdb"))
    (tmp_path / "fog.vdb").unlink()
    assert "fog.vdb" in str(load_or_say(exhibit, "density"))


def test_what_cannot_be_shown_is_said(tmp_path: Path) -> None:
    np.save(tmp_path / "zeros.npy", np.zeros((2, 2, 2)))
    np.save(tmp_path / "line.npy", np.zeros(7))
    np.save(tmp_path / "empty.npy", np.zeros((0, 3)))
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    np.save(tmp_path / "nan.npy", np.full((2, 3), np.nan))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "broken.vdb").write_bytes(b"no volume")
    (tmp_path / "broken.ply").write_bytes(b"ply\nno")
    (tmp_path / "notes.txt").write_text("no")
    (tmp_path / "notes.md").write_text("no")
    (tmp_path / "broken.pcd").write_text("no")
    np.savez(tmp_path / "volume.npz", volume=np.zeros((2, 2, 2, 2)))
    (tmp_path / "empty.xyz").write_text("")
    (tmp_path / "bare").mkdir()
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) == 15
    for name in names:
        with pytest.raises(FormatError, match=name.replace(".", r"\.")):
            only(tmp_path / name)
    with pytest.raises(MissingFileError, match="no such file"):
        open_exhibit(tmp_path / "absent")


def test_the_page_offers_the_items_and_controls(tmp_path: Path) -> None:
    pytest.importorskip("viser", reason="needs viser")
    from voxfield.viewer.showcase import Showcase

    fog(tmp_path / "fog.vdb")
    np.save(tmp_path / "zeros.npy", np.zeros((2, 2, 2)))
    (tmp_path / "mesh.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    with Showcase(open_exhibit(tmp_path), name="folder", port=0) as shown:
        assert "2 active voxels" in shown._about.content
        shown._least.value = 0.5
        shown._height.value = 0.0
        shown._choose("mesh.obj")
        assert "1 triangles" in shown._about.content
        shown._choose("zeros.npy")
        assert "holds nothing to show" in shown._about.content
        shown._choose("../x")
        assert "There is no" in shown._about.content
    with pytest.raises(VoxfieldError, match="holds nothing"):
        Showcase(open_exhibit(tmp_path / "zeros.npy"), name="zeros", port=0)


def test_samples_are_offered_by_their_numbers(tmp_path: Path) -> None:
    import h5py

    import voxfield
    from voxfield.viewer.showcase import numbered

    volumes = np.zeros((3, 4, 5, 6), np.float32)
    volumes[1, 1, 2, 3] = 0.5
    with h5py.File(tmp_path / "samples.h5", "w") as file:
        file["voxels"] = volumes
    drawn = open_exhibit(tmp_path / "samples.h5")
    assert numbered(drawn.items) == "sample"
    assert drawn.load("sample 1").points.tolist() == [[3, 2, 1]]
    assert "holds nothing" in str(load_or_say(drawn, "sample 0"))
    grid = {"voxel_size": (8, 8, 8), "volume_dims": (1.0, 1.0, 1.0)}
    (tmp_path / "clouds").mkdir()
    for number in range(2):
        np.save(tmp_path / "clouds" / f"{number}.npy", np.random.default_rng(number).random((50, 3)).astype(np.float32))
    voxfield.prerender(tmp_path / "clouds", tmp_path / "voxels", workers=1, quiet=True, **grid)
    rendered = open_exhibit(tmp_path / "voxels")
    assert rendered.items == ("sample 0", "sample 1")
    assert "Number 1 of the source" in rendered.load("sample 1").note
    assert numbered(("a", "b")) is None
    assert numbered(("sample 0",)) is None


def test_hdf5_files_of_something_else_are_refused(tmp_path: Path) -> None:
    import h5py

    (tmp_path / "none.h5").write_bytes(b"nothing")
    for name, content in (("flat.h5", np.zeros((2, 3))), ("empty.h5", np.zeros((0, 2, 2, 2)))):
        with h5py.File(tmp_path / name, "w") as file:
            file["voxels"] = content
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["grids"] = np.zeros((1, 2, 2, 2))
    for name in ("none.h5", "flat.h5", "empty.h5", "other.h5"):
        with pytest.raises(FormatError, match=name.replace(".", r"\.")):
            open_exhibit(tmp_path / name)
