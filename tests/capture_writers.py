"""Small captures as the programs people use write them, from known cameras. Pictures are flat colours."""

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import OpenEXR
import torch
from PIL import Image

from voxfield.data.synthetic import cameras_around
from voxfield.geometry.camera import Cameras
from voxfield.geometry.rotations import quaternions_from_rotations

WIDTH, HEIGHT, COUNT = 48, 32, 9
FLIP = torch.tensor([1.0, -1.0, -1.0, 1.0])


def some_cameras(count: int = COUNT, *, centred: bool = False) -> Cameras:
    """Cameras around the origin, of 48x32 pixels, with an off-centre principal point unless ``centred``."""
    cameras = cameras_around(count, radius=2.0)
    size = torch.ones(count, dtype=torch.int64)
    offset = torch.zeros(2) if centred else torch.tensor([1.5, -0.75])
    return replace(
        cameras,
        focal=torch.full((count, 2), 40.0),
        principal=(torch.tensor([WIDTH / 2, HEIGHT / 2]) + offset).repeat(count, 1),
        width=size * WIDTH,
        height=size * HEIGHT,
    )


def picture(path: Path, index: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (20 * index, 100, 255 - 20 * index)).save(path)


RADIANCE = 4.0
"""Red of the first linear picture."""


def exr_picture(path: Path, index: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = (RADIANCE * (index + 1), 0.5, 0.25)
    channels = {name: np.full(size[::-1], value, dtype=np.float16) for name, value in zip("RGB", colour, strict=True)}
    OpenEXR.File({"compression": OpenEXR.PIZ_COMPRESSION, "type": OpenEXR.scanlineimage}, channels).write(str(path))


def pose_4x4(cameras: Cameras, index: int) -> np.ndarray:
    """Camera-to-world, OpenGL axes."""
    rows = cameras.camera_to_world[index].double().numpy()
    return np.vstack([rows, [0.0, 0.0, 0.0, 1.0]])


def pose_opencv(cameras: Cameras, index: int) -> np.ndarray:
    """Camera-to-world, OpenCV axes."""
    return pose_4x4(cameras, index) * FLIP.double().numpy()


def lens_of(cameras: Cameras, index: int) -> tuple[float, float, float, float]:
    fx, fy = cameras.focal[index].tolist()
    cx, cy = cameras.principal[index].tolist()
    return fx, fy, cx, cy


def write_json(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def write_nerfstudio(folder: Path, cameras: Cameras) -> None:
    frames = []
    for index in range(len(cameras)):
        picture(folder / f"images/frame_{index:05d}.png", index)
        frames.append(
            {"file_path": f"images/frame_{index:05d}.png", "transform_matrix": pose_4x4(cameras, index).tolist()}
        )
    fx, fy, cx, cy = lens_of(cameras, 0)
    lens = {"w": WIDTH, "h": HEIGHT, "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "camera_model": "OPENCV"}
    write_json(folder / "transforms.json", {**lens, "frames": frames})


def write_blender(folder: Path, cameras: Cameras) -> None:
    angle = 2 * float(torch.atan(WIDTH / 2 / cameras.focal[0, 0]))
    for split in ("train", "val", "test"):
        frames = []
        for index in range(len(cameras)):
            picture(folder / split / f"r_{index}.png", index)
            frames.append({"file_path": f"./{split}/r_{index}", "transform_matrix": pose_4x4(cameras, index).tolist()})
        write_json(folder / f"transforms_{split}.json", {"camera_angle_x": angle, "frames": frames})


def write_colmap(folder: Path, cameras: Cameras) -> None:
    """A binary sparse model without points, all pictures by camera 1: a PINHOLE (model 1)."""
    listed = [struct.pack("<Q", len(cameras))]
    for index in range(len(cameras)):
        picture(folder / f"images/{index:03d}.jpg", index)
        pose = torch.from_numpy(pose_opencv(cameras, index))
        rotation = pose[:3, :3].T
        placed = [*quaternions_from_rotations(rotation[None])[0].tolist(), *(-rotation @ pose[:3, 3]).tolist()]
        listed.append(
            struct.pack("<I7dI", index + 1, *placed, 1) + f"{index:03d}.jpg\0".encode() + struct.pack("<Q", 0)
        )
    model = folder / "sparse/0"
    model.mkdir(parents=True, exist_ok=True)
    (model / "cameras.bin").write_bytes(struct.pack("<QIiQQ4d", 1, 1, 1, WIDTH, HEIGHT, *lens_of(cameras, 0)))
    (model / "images.bin").write_bytes(b"".join(listed))


def write_llff(folder: Path, cameras: Cameras) -> None:
    """Principal points are in the middle whatever the cameras say: the file has no place for them."""
    rows = []
    for index in range(len(cameras)):
        picture(folder / f"images/{index:03d}.png", index)
        right, up, back, centre = pose_4x4(cameras, index)[:3].T
        lens = np.array([HEIGHT, WIDTH, lens_of(cameras, index)[0]])
        rows.append([*np.stack([-up, right, back, centre, lens], axis=1).ravel(), 0.5, 6.0])
    np.save(folder / "poses_bounds.npy", np.array(rows))


def write_pynerf(folder: Path, cameras: Cameras) -> None:
    """Mip-NeRF's converter: every picture at two scales, their principal points in the middle."""
    metadata: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        columns: dict[str, list[Any]] = {
            name: []
            for name in ("file_path", "cam2world", "width", "height", "focal", "label", "near", "far", "lossmult")
        }
        for index in range(len(cameras)):
            for level in range(2):
                name = f"images_{split}/r_{index}_d{level}.png"
                width, height = WIDTH >> level, HEIGHT >> level
                picture(folder / name, index, (width, height))
                row = (name, pose_4x4(cameras, index).tolist(), width, height, lens_of(cameras, index)[0] / 2**level)
                for column, value in zip(columns.values(), (*row, level, 0.5, 6.0, 4.0**level), strict=True):
                    column.append(value)
        metadata[split] = columns
    write_json(folder / "metadata.json", metadata)


def write_record3d(folder: Path, cameras: Cameras) -> None:
    poses = []
    for index in range(len(cameras)):
        picture(folder / f"rgb/{index}.jpg", index)
        w, x, y, z = quaternions_from_rotations(cameras.camera_to_world[index : index + 1, :, :3].double())[0].tolist()
        poses.append([x, y, z, w, *cameras.camera_to_world[index, :, 3].tolist()])
    fx, fy, cx, cy = lens_of(cameras, 0)
    metadata = {
        "h": HEIGHT,
        "w": WIDTH,
        "fps": 60,
        "K": [fx, 0, 0, 0, fy, 0, cx, cy, 1],
        "poses": poses,
        "perFrameIntrinsicCoeffs": [[fx, fy, cx, cy]] * len(cameras),
        "frameTimestamps": [index / 60 for index in range(len(cameras))],
    }
    write_json(folder / "metadata.json", metadata)


def polycam_name(index: int) -> str:
    return str(78_400_000_000 + 133 * index)


def write_polycam(folder: Path, cameras: Cameras) -> None:
    for index in range(len(cameras)):
        pose = pose_4x4(cameras, index)
        fx, fy, cx, cy = lens_of(cameras, index)
        camera: dict[str, Any] = {f"t_{row}{column}": pose[row, column] for row in range(3) for column in range(4)}
        camera.update(fx=fx, fy=fy, cx=cx, cy=cy, width=WIDTH, height=HEIGHT, blur_score=120.5, timestamp=index)
        for kind in ("", "corrected_"):
            picture(folder / f"keyframes/{kind}images/{polycam_name(index)}.jpg", index)
            write_json(folder / f"keyframes/{kind}cameras/{polycam_name(index)}.json", camera)
    write_json(folder / "mesh_info.json", {"alignmentTransform": np.eye(4).ravel().tolist()})


SUBJECT = np.diag([2.5, 2.5, 2.5, 1.0])
SUBJECT[:3, 3] = (0.3, -0.2, 0.1)
"""scale_mat: from the unit sphere to the reconstruction."""


def neus_matrices(cameras: Cameras) -> dict[str, np.ndarray]:
    """NeuS counts pixels from the centre of the first, so its principal point is half a pixel less."""
    matrices = {}
    for index in range(len(cameras)):
        fx, fy, cx, cy = lens_of(cameras, index)
        lens = np.array([[fx, 0, cx - 0.5, 0], [0, fy, cy - 0.5, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        pose = pose_opencv(cameras, index)
        pose[:3, 3] = SUBJECT[:3, :3] @ pose[:3, 3] + SUBJECT[:3, 3]
        matrices[f"world_mat_{index}"] = lens @ np.linalg.inv(pose)
        matrices[f"scale_mat_{index}"] = SUBJECT
    return matrices


def write_neus(folder: Path, cameras: Cameras) -> None:
    for index in range(len(cameras)):
        picture(folder / f"image/{index:03d}.png", index)
        mask = Image.new("RGB", (WIDTH, HEIGHT))
        mask.paste((255, 255, 255), (8, 8, 40, 24))
        (folder / "mask").mkdir(exist_ok=True)
        mask.save(folder / f"mask/{index:03d}.png")
    np.savez(folder / "cameras_sphere.npz", **neus_matrices(cameras))


ENLARGED = 4
"""The calibration of an Eyeful Tower scene speaks of the full size, its pictures are reduced."""


def eyeful_name(index: int) -> str:
    return f"{10 + index % 3}/{10 + index % 3}_DSC{index:04d}"


def write_eyefultower(folder: Path, cameras: Cameras, *, fisheye: bool = False) -> None:
    entries = []
    for index in range(len(cameras)):
        picture(folder / f"images-jpeg-2k/{eyeful_name(index)}.jpg", index)
        fx, fy, cx, cy = (ENLARGED * value for value in lens_of(cameras, index))
        entries.append(
            {
                "width": WIDTH * ENLARGED,
                "height": HEIGHT * ENLARGED,
                "cameraId": eyeful_name(index),
                "K": np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]).T.tolist(),
                "T": np.linalg.inv(pose_opencv(cameras, index)).T.tolist(),
                "distortionModel": "Fisheye" if fisheye else "RadialAndTangential",
                "distortion": [0.01, -0.02, 0.003, 0, 0, 0, 1e-4, 2e-4]
                if fisheye
                else [0.01, -0.02, 1e-4, 2e-4, 0.003],
                "frameId": index // 3,
                "sensorId": index % 3,
            }
        )
    write_json(folder / "cameras.json", {"KRT": entries})
    names = [eyeful_name(index) for index in range(len(cameras))]
    test = [name for name in names if name.startswith("11/")]
    write_json(folder / "splits.json", {"train": [name for name in names if name not in test], "test": test})
    write_metashape_xml(
        folder / "cameras.xml", cameras, labels=[name.split("/")[1] for name in names], enlarged=ENLARGED
    )


WORLD_SCALE = 0.25
WORLD_TURN = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
WORLD_SHIFT = np.array([1.0, -2.0, 0.5])
RIG = np.array([[0.0, 0.0, 1.0, 0.2], [0.0, 1.0, 0.0, -0.1], [-1.0, 0.0, 0.0, 0.05], [0.0, 0.0, 0.0, 1.0]])
"""The place of the second sensor in the rig: a quarter turn and a shift, in chunk units."""


def numbers(array: np.ndarray) -> str:
    return " ".join(f"{value:.17g}" for value in np.asarray(array).ravel())


@dataclass(frozen=True)
class MetashapeLens:
    """Metashape's names for a lens."""

    kind: str = "frame"
    coefficients: str = ""
    """Further elements, e.g. ``<k1>0.1</k1>``."""


def sensor_xml(cameras: Cameras, lens: MetashapeLens, number: int, extra: str, enlarged: int) -> str:
    fx, fy, cx, cy = (enlarged * value for value in lens_of(cameras, 0))
    width, height = WIDTH * enlarged, HEIGHT * enlarged
    b1 = f"<b1>{fx - fy:.17g}</b1>" if fx != fy else ""
    master = 'master_id="0"' if number else ""
    return f"""<sensor id="{number}" label="unknown" type="{lens.kind}" {master}>
      <resolution width="{width}" height="{height}"/>
      <property name="layer_index" value="{number}"/>
      <bands><band label="Red"/><band label="Green"/><band label="Blue"/></bands>
      <data_type>uint8</data_type>
      <calibration type="{lens.kind}" class="initial">
        <resolution width="{width}" height="{height}"/><f>1</f>
      </calibration>
      <calibration type="{lens.kind}" class="adjusted">
        <resolution width="{width}" height="{height}"/>
        <f>{fy:.17g}</f><cx>{cx - width / 2:.17g}</cx><cy>{cy - height / 2:.17g}</cy>{b1}{lens.coefficients}
      </calibration>{extra}
    </sensor>"""


def write_metashape_xml(
    path: Path,
    cameras: Cameras,
    *,
    labels: Sequence[str],
    lens: MetashapeLens = MetashapeLens(),
    enlarged: int = 1,
    rig: bool = False,
    further: str = "",
) -> None:
    """The export of a chunk whose component is scaled, turned and shifted into the world of ``cameras``.

    With ``rig`` every second camera is of a second sensor, placed by ``RIG`` relative to the camera before it.
    """
    sensors = [sensor_xml(cameras, lens, 0, "", enlarged)]
    if rig:
        place = f"<rotation>{numbers(RIG[:3, :3])}</rotation><location>{numbers(RIG[:3, 3])}</location>"
        sensors.append(sensor_xml(cameras, lens, 1, place, enlarged))
    listed = []
    for index, label in enumerate(labels):
        if rig and index % 2:
            listed.append(
                f'<camera id="{index}" sensor_id="1" component_id="0" master_id="{index - 1}" label="{label}">'
                "<orientation>1</orientation></camera>"
            )
            continue
        pose = pose_opencv(cameras, index)
        pose[:3, 3] = WORLD_TURN.T @ (pose[:3, 3] - WORLD_SHIFT) / WORLD_SCALE
        pose[:3, :3] = WORLD_TURN.T @ pose[:3, :3]
        listed.append(
            f'<camera id="{index}" sensor_id="0" component_id="0" label="{label}">'
            f"<transform>{numbers(pose)}</transform><orientation>1</orientation></camera>"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"""<?xml version="1.0" encoding="UTF-8"?>
<document version="2.0.0">
  <chunk label="Chunk 1" enabled="true">
    <sensors next_id="2">{"".join(sensors)}</sensors>
    <components next_id="1" active_id="0">
      <component id="0" label="Component 1">
        <transform>
          <rotation locked="true">{numbers(WORLD_TURN)}</rotation>
          <translation locked="true">{numbers(WORLD_SHIFT)}</translation>
          <scale locked="true">{WORLD_SCALE}</scale>
        </transform>
        <region><center>0 0 0</center><size>1 1 1</size><R>1 0 0 0 1 0 0 0 1</R></region>
      </component>
    </components>
    <cameras next_id="{len(labels)}" next_group_id="0">{"".join(listed)}{further}</cameras>
    <reference>LOCAL_CS["Local Coordinates (m)"]</reference>
  </chunk>
</document>
""")


def write_metashape(folder: Path, cameras: Cameras, **options: Any) -> None:
    labels = [f"DSC{index:04d}" for index in range(len(cameras))]
    for index, label in enumerate(labels):
        picture(folder / f"images/{label}.jpg", index)
    write_metashape_xml(folder / "cameras.xml", cameras, labels=labels, **options)


WRITERS: dict[str, Callable[[Path, Cameras], None]] = {
    "blender": write_blender,
    "nerfstudio": write_nerfstudio,
    "colmap": write_colmap,
    "llff": write_llff,
    "pynerf": write_pynerf,
    "record3d": write_record3d,
    "polycam": write_polycam,
    "neus": write_neus,
    "eyefultower": write_eyefultower,
    "metashape": write_metashape,
}
