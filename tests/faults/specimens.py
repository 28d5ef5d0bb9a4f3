"""Good files of every format that is read, small, as our own writers and those of other programs make them.

Each specimen writes its file into a folder of its own, beside whatever the file needs, and says how it is read and how
it is best spoiled.
"""

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mutators
import numpy as np

Write = Callable[[Path], Path]
"""Makes the files in a new folder and returns the one to spoil."""
Read = Callable[[Path], object]


@dataclass(frozen=True)
class Specimen:
    """A kind of file."""

    format: str
    name: str
    write: Write
    read: Read
    spoil: Callable[..., bytes] = mutators.blind
    refused: bool = False
    """Whether even the good file is refused: nothing here reads the format."""


def captures():
    """``tests/capture_writers.py``."""
    if "capture_writers" not in sys.modules:
        path = Path(__file__).resolve().parents[1] / "capture_writers.py"
        spec = importlib.util.spec_from_file_location("capture_writers", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    return sys.modules["capture_writers"]


# -------------------------------------------------------------------------------------------------------------- volumes


def fog(dtype=np.float32, seed=0):
    from voxfield.voxels.sparse import SparseVolume

    draw = np.random.default_rng(seed)
    return SparseVolume.from_dense(np.where(draw.random((9, 9, 9)) < 0.3, 1.5, 0).astype(dtype), origin=(-4, -4, 4))


def some_grids():
    from voxfield.storage.vdb import VdbGrid
    from voxfield.voxels.sparse import SparseVolume

    dense = np.random.default_rng(1).normal(size=(3, 9, 9, 9)).astype(np.float32)
    volume = fog()
    return [
        VdbGrid(name="density", volume=volume, metadata={"note": "x", "number": 2}),
        VdbGrid(name="again", volume=volume),
        VdbGrid(name="flags", volume=SparseVolume.from_dense(dense[0] > 0)),
        VdbGrid(name="colour", volume=SparseVolume.from_dense(dense), half=True),
    ]


def vdb(compression: str) -> Write:
    def write(home: Path) -> Path:
        from voxfield.storage.vdb import write_vdb

        return write_vdb(home / "a.vdb", some_grids(), compression=compression)

    return write


def voxel_grid():
    import torch

    from voxfield.voxels.voxel_grid import VoxelGrid

    stored = torch.zeros(5, 6, 7, dtype=torch.bool)
    stored[1:4, 2:, 3:] = True
    return VoxelGrid((7, 6, 5), (-1, -1, -1, 1, 1, 1), 1, stored=stored)


def voxel_vdb(layout: str) -> Write:
    def write(home: Path) -> Path:
        from voxfield.storage.voxel_vdb import write_voxel_vdb

        return write_voxel_vdb(home / "a.vdb", voxel_grid(), layout=layout)

    return write


def pyramid(home: Path) -> Path:
    from voxfield.storage.voxel_pyramid import write_pyramid
    from voxfield.voxels.lod import grid_levels

    return write_pyramid(home / "a.vdb", grid_levels(voxel_grid(), 2), brick=8)


def read_vdb(path: Path) -> None:
    from voxfield.storage.vdb import VdbFile

    file = VdbFile(path)
    for header in file.grids:
        file.summary(header)
        file.read(header)


def read_voxels(path: Path) -> None:
    from voxfield.storage.voxel_vdb import read_voxel_vdb

    read_voxel_vdb(path)


def read_pyramid(path: Path) -> None:
    from voxfield.storage.voxel_pyramid import VoxelPyramid

    levels = VoxelPyramid(path)
    for level in range(len(levels.levels)):
        levels.grid(level)


def compressed(home: Path) -> Path:
    from voxfield.storage.compressed import CompressionConfig, write_compressed

    path = home / "a.vxv"
    write_compressed(path, some_grids()[:2], CompressionConfig(max_error=0.01))
    return path


def read_compressed_file(path: Path) -> None:
    from voxfield.storage.compressed import read_compressed

    read_compressed(path)


def nanovdb(compression: str) -> Write:
    def write(home: Path) -> Path:
        from voxfield.storage.nanovdb import write_nanovdb

        return write_nanovdb(home / "a.nvdb", some_grids()[:1], compression=compression)

    return write


def inspect_volume(path: Path) -> None:
    import voxfield

    voxfield.volume_info(path, values=True)


# --------------------------------------------------------------------------------------------------------------- arrays


def svox2(home: Path) -> Path:
    from voxfield.storage.voxel_files import write_svox2

    return write_svox2(home / "ckpt.npz", voxel_grid())


def read_svox2_file(path: Path) -> None:
    from voxfield.storage.voxel_files import read_svox2

    read_svox2(path)


def compact(home: Path) -> Path:
    from voxfield.storage.voxel_files import write_compact

    return write_compact(home / "a.npz", voxel_grid())


def read_compact_file(path: Path) -> None:
    from voxfield.storage.voxel_files import read_compact

    read_compact(path)


def some_points(count=40):
    return np.random.default_rng(0).random((count, 3)).astype(np.float32)


def cloud_npz(home: Path) -> Path:
    np.savez(home / "a.npz", points=some_points(), others=some_points(60).reshape(3, 20, 3))
    return home / "a.npz"


def cloud_npy(home: Path) -> Path:
    np.save(home / "a.npy", some_points(60).reshape(3, 20, 3))
    return home / "a.npy"


def depth_npy(home: Path) -> Path:
    np.save(home / "depth.npy", np.random.default_rng(0).random((12, 16)).astype(np.float32))
    return home / "depth.npy"


def read_depth_npy(path: Path) -> None:
    from voxfield.data.decode import read_depth_array

    depth = read_depth_array(path, size=(16, 12)).numpy()
    assert depth.shape == (12, 16)
    assert (np.isfinite(depth) & (depth >= 0)).all()


def read_clouds(path: Path) -> None:
    from voxfield.data.point_clouds import PointClouds

    clouds = PointClouds([path])
    for index in range(min(len(clouds), 8)):
        clouds.read(index)
        clouds.name(index)
    clouds.fingerprint()


def volumes_npz(home: Path) -> Path:
    voxels = np.random.default_rng(0).random((5, 4, 4, 4)).astype(np.float32)
    np.savez_compressed(home / "a.npz", voxels=voxels, labels=np.arange(5))
    return home / "a.npz"


def volumes_h5(home: Path) -> Path:
    import h5py

    with h5py.File(home / "a.h5", "w") as file:
        file["voxels"] = np.random.default_rng(0).random((5, 4, 4, 4)).astype(np.float32)
        file["labels"] = np.arange(5)
    return home / "a.h5"


def read_volumes(path: Path) -> None:
    from voxfield.data.volume_batches import VolumeOptions, open_volumes

    volumes = open_volumes(path, VolumeOptions())
    for index in range(min(len(volumes), 3)):
        volumes.volume(index)
        volumes.label(index)


def dense(ending: str) -> Write:
    def write(home: Path) -> Path:
        from voxfield.storage.dense_files import DenseVolume, write_dense

        values = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
        path = write_dense(home / f"a{ending}", DenseVolume(values=values, index_to_world=np.eye(4)))
        return path.with_name("a.raw.json") if ending == ".raw" else path

    return write


def read_dense_file(path: Path) -> None:
    from voxfield.storage.dense_files import read_dense

    read_dense(path.with_name("a.raw") if path.name == "a.raw.json" else path)


def clouds_h5(layout: str) -> Write:
    def write(home: Path) -> Path:
        import h5py

        with h5py.File(home / "a.h5", "w", libver="latest" if layout == "packed" else "earliest") as file:
            if layout == "stack":
                file["pointclouds"] = some_points(60).reshape(3, 20, 3)
            elif layout == "packed":
                stack = some_points(60).reshape(3, 20, 3)
                file.create_dataset("data", data=stack, chunks=(1, 20, 3), compression="gzip", shuffle=True)
            elif layout == "offsets":
                file["points"] = some_points(60)
                file["points_offsets"] = np.array([0, 20, 25, 60])
            elif layout == "variable":
                rows = file.create_dataset("data", (3,), h5py.vlen_dtype(np.float32))
                for row in range(3):
                    rows[row] = some_points(4 + row).ravel()
            else:
                for number in range(3):
                    file[f"pointclouds/{number}"] = some_points(5 + number)
        return home / "a.h5"

    return write


def batch_h5(home: Path) -> Path:
    import voxfield

    np.save(home / "clouds.npy", some_points(60).reshape(3, 20, 3))
    voxfield.prerender(
        [home / "clouds.npy"], home / "out", voxel_size=(8,), volume_dims=(1, 1, 1), batch_size=8, workers=1, quiet=True
    )
    return next((home / "out").glob("*.h5"))


def batch_metadata(home: Path) -> Path:
    return batch_h5(home).parent / "metadata.yaml"


def read_prerendered(path: Path) -> None:
    from voxfield.data.voxel_datasets import PrerenderedVoxelDataset

    found = PrerenderedVoxelDataset(path.parent)
    for index in range(min(len(found), 3)):
        found[index]


# --------------------------------------------------------------------------------------------------- voxel datasets


def shapes(layout: str, pattern: str) -> Write:
    def write(home: Path) -> Path:
        import voxfield

        faces = "f 1 3 2\nf 1 2 4\nf 2 3 4\nf 1 4 3\n"
        (home / "meshes").mkdir()
        for number in range(2):
            corners = f"v 0 0 0\nv {5 - number} 0 1\nv 0 4 0\nv 0.5 0 3\n"
            (home / "meshes" / f"wedge{number}.obj").write_text(corners + faces)
        voxfield.build_shapes(
            home / "meshes", home / "set", resolution=16, min_resolution=4, layout=layout, workers=1, quiet=True
        )
        return min((home / "set").glob(pattern))

    return write


def read_shapes(path: Path) -> None:
    from voxfield.storage.shape_dataset import open_shapes
    from voxfield.storage.shape_splits import read_splits

    folder = next(one for one in path.parents if one.name == "set")
    found = open_shapes(folder)
    for index in range(min(len(found), 3)):
        found.read(index)
        found.root_words(index)
    for level in range(1, min(found.about.num_levels, 4)):
        for name in found.block_names(level)[:3]:
            found.block_words(level, name)
    read_splits(folder)


def rays(layout: str, pattern: str) -> Write:
    def write(home: Path) -> Path:
        import voxfield

        shapes("packed", "metadata.json")(home)
        voxfield.trace_shapes(
            home / "set",
            home / "rays",
            sphere_divisions=1,
            samples_per_view=9,
            layout=layout,
            max_level=1,
            workers=1,
            quiet=True,
        )
        return min((home / "rays").glob(pattern))

    return write


def read_rays(path: Path) -> None:
    from voxfield.storage.shape_rays import open_rays

    found = open_rays(next(one for one in path.parents if one.name == "rays"))
    for block in found.blocks():
        found.read(block, 0, min(found.count(block), 100))
        found.constants(block)


# ------------------------------------------------------------------------------------------------------------- pictures


def photo(kind: str) -> Write:
    def write(home: Path) -> Path:
        from PIL import Image

        draw = np.random.default_rng(0)
        smooth = np.linspace(0, 255, 24)[:, None, None] * np.ones((24, 32, 4))
        pixels = (smooth * 0.8 + draw.integers(0, 50, (24, 32, 4))).clip(0, 255).astype(np.uint8)
        image = {
            "rgb": lambda: Image.fromarray(pixels[..., :3]),
            "rgba": lambda: Image.fromarray(pixels),
            "grey": lambda: Image.fromarray(pixels[..., 0]),
            "palette": lambda: Image.fromarray(pixels[..., :3]).quantize(16),
            "depth": lambda: Image.fromarray(pixels[..., 0].astype(np.uint16) * 200),
            "jpeg": lambda: Image.fromarray(pixels[..., :3]),
            "progressive": lambda: Image.fromarray(pixels[..., :3]),
            "cmyk": lambda: Image.fromarray(pixels[..., :3]).convert("CMYK"),
        }[kind]()
        path = home / ("a.jpg" if kind in {"jpeg", "progressive", "cmyk"} else "a.png")
        options = {"progressive": {"progressive": True, "optimize": True}}.get(kind, {})
        image.save(path, **options)
        return path

    return write


def read_photo(path: Path) -> None:
    from voxfield.data.decode import read_depth, read_header, read_image, read_mask
    from voxfield.errors import VoxfieldError

    header = read_header(path)
    read_image(path, channels=4 if header.alpha else 3, size=header.size, full_size=header.size)
    half = (max(1, header.size[0] // 2), max(1, header.size[1] // 2))
    read_mask(path, size=half, full_size=header.size)
    try:
        read_depth(path, size=header.size)
    except VoxfieldError as error:
        if "16 bits" not in str(error):
            raise


def exr(kind: str) -> Write:
    def write(home: Path) -> Path:
        import OpenEXR

        dtype = np.float32 if kind == "float" else np.float16
        draw = np.random.default_rng(0)
        planes = {name: draw.random((20, 24)).astype(dtype) for name in ("RGBA" if kind == "float" else "RGB")}
        compression = {
            "zip": OpenEXR.ZIP_COMPRESSION,
            "piz": OpenEXR.PIZ_COMPRESSION,
            "float": OpenEXR.NO_COMPRESSION,
            "dwa": OpenEXR.DWAA_COMPRESSION,
            "b44": OpenEXR.B44_COMPRESSION,
            "pxr": OpenEXR.PXR24_COMPRESSION,
            "rle": OpenEXR.RLE_COMPRESSION,
        }[kind]
        header = {"compression": compression, "type": OpenEXR.scanlineimage}
        OpenEXR.File(header, planes).write(str(home / "a.exr"))
        return home / "a.exr"

    return write


def read_light(path: Path) -> None:
    from voxfield.data.decode import read_header, read_linear

    header = read_header(path)
    channels = 4 if header.alpha else 3
    read_linear(path, channels=channels, size=header.size, full_size=header.size, dtype=header.dtype)


# -------------------------------------------------------------------------------------------------- meshes and points


def mesh(ending: str, **options) -> Write:
    def write(home: Path) -> Path:
        import trimesh

        shape = trimesh.creation.icosphere(subdivisions=1)
        shape.export(home / f"a{ending}", **options)
        return home / f"a{ending}"

    return write


def quads(home: Path) -> Path:
    """Faces of several lengths, colours, texture coordinates, groups, comments."""
    text = "# a\nmtllib ../outside/a.mtl\no one\n"
    text += "".join(f"v {x} {y} {z} 0.5 0.5 1\n" for x in (0, 1) for y in (0, 1) for z in (0, 1))
    text += "vt 0 0\nvt 1 0\nvt 1 1\nvn 0 0 1\nusemtl stone\ns off\n"
    text += "f 1/1/1 2/2/1 4/3/1 3/1/1\nf 5 6 8 7\nf 1//1 2//1 6//1\ng two\nf -1 -2 -3\n"
    (home / "a.obj").write_text(text)
    return home / "a.obj"


def own_surface(ending: str) -> Write:
    def write(home: Path) -> Path:
        import trimesh

        from voxfield.storage.surface_files import ColouredSurface, write_surface

        shape = trimesh.creation.icosphere(subdivisions=1)
        vertices = np.asarray(shape.vertices, np.float32)
        surface = ColouredSurface(
            vertices=vertices, faces=np.asarray(shape.faces), normals=vertices, colours=np.abs(vertices).clip(0, 1)
        )
        return write_surface(home / f"a{ending}", surface)[0]

    return write


def gltf(home: Path) -> Path:
    import trimesh

    files = trimesh.exchange.gltf.export_gltf(trimesh.Scene(trimesh.creation.box()))
    for name, content in files.items():
        (home / name).write_bytes(content)
    return home / "model.gltf"


def zipped(home: Path) -> Path:
    import zipfile

    path = mesh(".stl")(home)
    with zipfile.ZipFile(home / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "part.stl")
    return home / "a.zip"


FACES = ((0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3))


def threemf(home: Path) -> Path:
    """Two tetrahedra, one of them a component."""
    import zipfile

    vertices = "".join(f'<vertex x="{x}" y="{y}" z="{z}"/>' for x, y, z in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)))
    triangles = "".join(f'<triangle v1="{a}" v2="{b}" v3="{c}"/>' for a, b, c in FACES)
    mesh = f"<mesh><vertices>{vertices}</vertices><triangles>{triangles}</triangles></mesh>"
    again = '<components><component objectid="1" transform="1 0 0 0 1 0 0 0 1 2 0 0"/></components>'
    with zipfile.ZipFile(home / "a.3mf", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "3D/3dmodel.model",
            '<?xml version="1.0"?><model xmlns="http://schemas.microsoft.com/3dmanufacturing/core/2015/02"><resources>'
            f'<object id="1">{mesh}</object><object id="2">{again}</object></resources>'
            '<build><item objectid="1"/><item objectid="2"/></build></model>',
        )
    return home / "a.3mf"


def read_mesh_file(path: Path) -> None:
    from voxfield.data.formats.meshes import read_mesh
    from voxfield.errors import VoxfieldError
    from voxfield.voxels.voxelise import voxelise

    found = read_mesh(path)
    try:
        voxelise(found.vertices, found.faces, 8)
    except VoxfieldError:
        raise
    except ValueError as error:
        raise AssertionError(f"a mesh that was read cannot be voxelised: {error}") from error


def read_points_file(path: Path) -> None:
    from voxfield.data.formats.points import read_points

    points = read_points(path)
    assert points.ndim == 2
    assert points.shape[1] == 3
    assert points.dtype.kind == "f"


def pcd(data: str) -> Write:
    def write(home: Path) -> Path:
        points = some_points()
        header = "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 40\nHEIGHT 1\n"
        header += f"VIEWPOINT 0 0 0 1 0 0 0\nPOINTS 40\nDATA {data}\n"
        if data == "ascii":
            body = "".join(f"{x} {y} {z}\n" for x, y, z in points.tolist()).encode()
        elif data == "binary":
            body = points.tobytes()
        else:
            packed = lzf(np.ascontiguousarray(points.T).tobytes())
            body = len(packed).to_bytes(4, "little") + points.nbytes.to_bytes(4, "little") + packed
        (home / "a.pcd").write_bytes(header.encode() + body)
        return home / "a.pcd"

    return write


def lzf(content: bytes) -> bytes:
    """Literal runs only: a stream that every decoder reads."""
    runs = [content[at : at + 32] for at in range(0, len(content), 32)]
    return b"".join(bytes([len(run) - 1]) + run for run in runs)


def las(ending: str, version: str = "1.2", point_format: int = 3) -> Write:
    def write(home: Path) -> Path:
        import laspy

        header = laspy.LasHeader(version=version, point_format=point_format)
        header.offsets, header.scales = [0, 0, 0], [0.001] * 3
        cloud = laspy.LasData(header)
        cloud.x, cloud.y, cloud.z = some_points().T.astype(np.float64)
        cloud.write(str(home / f"a{ending}"))
        return home / f"a{ending}"

    return write


def text_points(ending: str) -> Write:
    def write(home: Path) -> Path:
        comma = ending == ".csv"
        rows = [(", " if comma else " ").join(f"{one:.4f}" for one in row) for row in some_points().tolist()]
        (home / f"a{ending}").write_text("\n".join(["x,y,z", *rows] if comma else rows))
        return home / f"a{ending}"

    return write


# ------------------------------------------------------------------------------------------------------------- captures


def capture(kind: str, spoilt: str) -> Write:
    def write(home: Path) -> Path:
        writers = captures()
        folder = home / "capture"
        folder.mkdir()
        getattr(writers, f"write_{kind}")(folder, writers.some_cameras(4))
        return folder / spoilt

    return write


def read_capture_folder(path: Path) -> None:
    from voxfield.data.capture import CaptureOptions
    from voxfield.data.capture_reading import read_capture

    folder = next(one for one in (path, *path.parents) if one.name == "capture")
    captured = read_capture(folder, split="train", options=CaptureOptions(cache_bytes=1 << 22))
    captured.images.read(0)


def camera_path(home: Path) -> Path:
    import torch

    from voxfield.data.camera_path import CameraPath, View

    poses = [torch.cat([torch.eye(3), torch.tensor([[0.0], [0.1 * at], [2.0]])], 1) for at in range(4)]
    views = tuple(View.from_pose(pose, fov=50.0, aspect=1.5) for pose in poses)
    return CameraPath(frames=views, keyframes=views[::2], seconds=2.0).write(home / "path.json")


def read_path(path: Path) -> None:
    from voxfield.data.camera_path import read_camera_path

    found = read_camera_path(path)
    if found.width * found.height < 1 << 22:
        found.cameras()


def scene(home: Path) -> Path:
    vdb("none")(home)
    member = {
        "name": "fog",
        "path": "a.vdb",
        "density_grid": "density",
        "colour": [0.5, 0.5, 0.5],
        "density_factor": 2.0,
        "transform": {"translation": [0, 0, 1], "scale": 2.0},
        "crop": {"minimum": [-1, -1, -1], "maximum": [1, 1, 1]},
    }
    content = {"format": "voxfield-scene", "version": 1, "background": "white", "members": [member]}
    (home / "scene.json").write_text(json.dumps(content))
    return home / "scene.json"


def read_scene_file(path: Path) -> None:
    from voxfield.data.scene_file import read_scene

    read_scene(path)


# ----------------------------------------------------------------------------------------------------------------- runs


def checkpoint(home: Path) -> Path:
    import torch

    from voxfield.storage.checkpoint import save_checkpoint

    state = {"seconds": 1.5, "model": torch.nn.Linear(3, 4).state_dict(), "average": None, "note": ["a", {"b": 1}]}
    return save_checkpoint(home, 7, state, keep=1)


def read_checkpoint(path: Path) -> None:
    from voxfield.storage.checkpoint import load_latest

    load_latest(path.parent.parent)


def trained_run(name: str) -> Write:
    def write(home: Path) -> Path:
        import voxfield
        from voxfield.data.synthetic import posed_images, write_blender

        splits = [posed_images(count=3, resolution=8, split=split) for split in ("train", "val", "test")]
        write_blender(home / "photos", splits)
        tiny = [
            "model.field.hidden=32",
            "model.field.num_levels=2",
            "model.field.base_resolution=4",
            "model.field.max_resolution=8",
            "model.field.log2_table_size=8",
            "model.steps_across=16",
            "model.occupancy.resolution=32",
            "model.samples_per_batch=1024",
            "model.final_samples_per_batch=1024",
            "trainer.tensorboard=false",
            "trainer.log_every=1",
            "trainer.evaluation_images=0",
        ]
        voxfield.train(
            "grid-ngp", home / "photos", output=home / "run", steps=2, device="cpu", quiet=True, overrides=tiny
        )
        return min((home / "run").glob(name))

    return write


def read_run(path: Path) -> None:
    import voxfield

    run = voxfield.open(next(one for one in path.parents if one.name == "run"))
    run.info()
    assert run.weights


def weights(home: Path) -> Path:
    import torch

    from voxfield.export.weights import write_weights

    return write_weights(home, torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))).file


def read_weights_file(path: Path) -> None:
    from voxfield.export.weights import read_weights

    read_weights(path.parent)


def run_log(home: Path) -> Path:
    lines = [{"kind": "start", "recipe": "a"}, {"kind": "train", "step": 1, "loss": 0.5}, {"kind": "end"}]
    (home / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return home / "log.jsonl"


def read_run_log(path: Path) -> None:
    from voxfield.storage.run_log import read_log

    read_log(path)


def settings(home: Path) -> Path:
    (home / "a.yaml").write_text("trainer:\n  steps: 100\n  learning_rate: {initial: 0.01}\nmodel.background: white\n")
    return home / "a.yaml"


def read_settings_file(path: Path) -> None:
    from voxfield.training.settings import load_config_file

    load_config_file(path)


SPECIMENS = [
    *(Specimen("vdb", f"grids-{kind}", vdb(kind), read_vdb) for kind in ("none", "zip", "blosc")),
    *(Specimen("vdb", f"voxels-{kind}", voxel_vdb(kind), read_voxels) for kind in ("grids", "compact")),
    Specimen("vdb", "pyramid", pyramid, read_pyramid),
    Specimen("vxv", "compressed", compressed, read_compressed_file, mutators.as_vxv),
    *(Specimen("nvdb", kind, nanovdb(kind), inspect_volume, refused=True) for kind in ("none", "zip")),
    Specimen("npz", "svox2", svox2, read_svox2_file, mutators.as_zip),
    Specimen("npz", "compact", compact, read_compact_file, mutators.as_zip),
    Specimen("npz", "clouds", cloud_npz, read_clouds, mutators.as_zip),
    Specimen("npz", "volumes", volumes_npz, read_volumes, mutators.as_zip),
    Specimen("npz", "neus", capture("neus", "cameras_sphere.npz"), read_capture_folder, mutators.as_zip),
    Specimen("npz", "object", shapes("files", "objects/*/level_0.npz"), read_shapes, mutators.as_zip),
    Specimen("npz", "rays", rays("files", "level_1/*/*_rays.npz"), read_rays, mutators.as_zip),
    Specimen("npy", "clouds", cloud_npy, read_clouds, mutators.as_npy),
    Specimen("npy", "depth", depth_npy, read_depth_npy, mutators.as_npy),
    Specimen("npy", "dense", dense(".npy"), read_dense_file, mutators.as_npy),
    Specimen("npy", "llff", capture("llff", "poses_bounds.npy"), read_capture_folder, mutators.as_npy),
    Specimen("npy", "nodes", shapes("packed", "packed/nodes.*.npy"), read_shapes, mutators.as_npy),
    Specimen("npy", "ray blocks", rays("packed", "packed/blocks.*.npy"), read_rays, mutators.as_npy),
    Specimen("nii", "dense", dense(".nii"), read_dense_file),
    *(
        Specimen("h5", f"clouds-{layout}", clouds_h5(layout), read_clouds)
        for layout in ("stack", "packed", "offsets", "variable", "members")
    ),
    Specimen("h5", "prerendered", batch_h5, read_prerendered),
    Specimen("h5", "volumes", volumes_h5, read_volumes),
    *(
        Specimen("json", kind, capture(kind, name), read_capture_folder, mutators.as_json)
        for kind, name in (
            ("nerfstudio", "transforms.json"),
            ("blender", "transforms_train.json"),
            ("pynerf", "metadata.json"),
            ("record3d", "metadata.json"),
            ("polycam", f"keyframes/corrected_cameras/{78_400_000_000}.json"),
            ("eyefultower", "cameras.json"),
        )
    ),
    Specimen("json", "camera path", camera_path, read_path, mutators.as_json),
    Specimen("json", "scene", scene, read_scene_file, mutators.as_json),
    Specimen("json", "dataset", shapes("packed", "metadata.json"), read_shapes, mutators.as_json),
    Specimen("json", "dataset index", shapes("packed", "packed/index.json"), read_shapes, mutators.as_json),
    Specimen("json", "registry", shapes("files", "registry.json"), read_shapes, mutators.as_json),
    Specimen("json", "map", shapes("files", "objects/*/subdivision_map.json"), read_shapes, mutators.as_json),
    Specimen("json", "splits", shapes("packed", "splits.json"), read_shapes, mutators.as_json),
    Specimen("json", "ray index", rays("packed", "packed/index.json"), read_rays, mutators.as_json),
    Specimen("json", "raw", dense(".raw"), read_dense_file, mutators.as_json),
    Specimen("json", "experiment", trained_run("experiment.json"), read_run, mutators.as_json),
    Specimen("json", "log", run_log, read_run_log),
    Specimen("yaml", "settings", settings, read_settings_file, mutators.as_text),
    Specimen("yaml", "prerendered", batch_metadata, read_prerendered, mutators.as_text),
    *(
        Specimen("png", kind, photo(kind), read_photo, mutators.as_png)
        for kind in ("rgb", "rgba", "grey", "palette", "depth")
    ),
    *(Specimen("jpeg", kind, photo(kind), read_photo) for kind in ("jpeg", "progressive", "cmyk")),
    *(Specimen("exr", kind, exr(kind), read_light) for kind in ("zip", "piz", "float", "dwa", "b44", "pxr", "rle")),
    Specimen("ply", "mesh binary", mesh(".ply"), read_mesh_file, mutators.as_text),
    Specimen("ply", "mesh ascii", mesh(".ply", encoding="ascii"), read_mesh_file, mutators.as_text),
    Specimen("ply", "own surface", own_surface(".ply"), read_mesh_file, mutators.as_text),
    Specimen("ply", "points", mesh(".ply"), read_points_file, mutators.as_text),
    Specimen("obj", "mesh", mesh(".obj"), read_mesh_file, mutators.as_text),
    Specimen("obj", "quads", quads, read_mesh_file, mutators.as_text),
    Specimen("stl", "binary", mesh(".stl"), read_mesh_file),
    Specimen("stl", "ascii", mesh(".stl", file_type="stl_ascii"), read_mesh_file, mutators.as_text),
    Specimen("stl", "zip", zipped, read_mesh_file, mutators.as_zip),
    Specimen("off", "mesh", mesh(".off"), read_mesh_file, mutators.as_text),
    Specimen("glb", "mesh", mesh(".glb"), read_mesh_file),
    Specimen("glb", "own surface", own_surface(".glb"), read_mesh_file),
    Specimen("glb", "gltf", gltf, read_mesh_file, mutators.as_json),
    Specimen("3mf", "mesh", threemf, read_mesh_file, mutators.as_zip),
    *(
        Specimen("pcd", data, pcd(data), read_points_file, mutators.as_text)
        for data in ("ascii", "binary", "binary_compressed")
    ),
    Specimen("las", "las", las(".las"), read_points_file),
    Specimen("las", "las 1.4", las(".las", "1.4", 6), read_points_file),
    Specimen("las", "laz", las(".laz"), read_points_file),
    *(Specimen("xyz", ending, text_points(ending), read_points_file, mutators.as_text) for ending in (".xyz", ".csv")),
    Specimen("colmap", "cameras", capture("colmap", "sparse/0/cameras.bin"), read_capture_folder),
    Specimen("colmap", "images", capture("colmap", "sparse/0/images.bin"), read_capture_folder),
    Specimen("xml", "metashape", capture("metashape", "cameras.xml"), read_capture_folder, mutators.as_xml),
    Specimen("checkpoint", "state", checkpoint, read_checkpoint, mutators.as_zip),
    Specimen("checkpoint", "run", trained_run("checkpoints/*.pt"), read_run, mutators.as_zip),
    Specimen("safetensors", "weights", weights, read_weights_file, mutators.as_safetensors),
]
"""Every kind of file that is read."""
