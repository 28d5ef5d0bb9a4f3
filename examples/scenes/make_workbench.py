"""Render the workbench: the small posed scene that comes with Voxfield, in the NeRF-synthetic layout.

    python make_workbench.py --output workbench            # everything, about 20 minutes on one core
    python make_workbench.py --output /tmp/look --preview  # two pictures, to look at while changing the scene

Needs an environment of its own with ``bpy==4.5.*`` and ``pillow`` (README.md). Camera poses are camera-to-world
with OpenGL axes (+X right, +Y up, looking along -Z), world +Z up; pixel centres lie at +0.5; `camera_angle_x` is
the horizontal field of view in radians. The same arguments give the same poses; pixels can differ in the last bits
between processors.
"""

import argparse
import json
import math
import tempfile
from pathlib import Path

import bpy
import numpy as np
import workbench_objects
import workbench_shapes as shapes
from mathutils import Vector
from PIL import Image

SIZE = 256
RADIUS = 4.0
FIELD_OF_VIEW = 0.6911112
GOLDEN_TURN = math.pi * (3.0 - math.sqrt(5.0))
# split: (views, phase in turns, lowest and highest elevation in degrees)
SPLITS = {"train": (60, 0.0, -5.0, 82.0), "val": (4, 0.35, 12.0, 55.0), "test": (10, 0.71, 4.0, 62.0)}


def camera_positions(views: int, phase: float, lowest: float, highest: float) -> list[tuple[float, float, float]]:
    """Points on the sphere of RADIUS: even in area between two elevations, turning by the golden angle."""
    bottom, top = math.sin(math.radians(lowest)), math.sin(math.radians(highest))
    points = []
    for index in range(views):
        z = bottom + (top - bottom) * (index + 0.5) / views
        turn = GOLDEN_TURN * index + 2 * math.pi * phase
        ring = math.sqrt(1.0 - z * z)
        points.append((RADIUS * ring * math.cos(turn), RADIUS * ring * math.sin(turn), RADIUS * z))
    return points


def light() -> None:
    """Three area lights and a soft sky, cool above and warm below; none of them visible to the camera."""
    for name, position, size, power, colour in (
        ("key", (2.6, -2.4, 3.6), 1.6, 190.0, (1.0, 0.95, 0.88)),
        ("fill", (-3.6, -1.8, 1.8), 2.6, 55.0, (0.86, 0.92, 1.0)),
        ("rim", (-0.8, 3.8, 2.6), 2.0, 130.0, (1.0, 0.97, 0.94)),
    ):
        lamp = bpy.data.lights.new(name, "AREA")
        lamp.size, lamp.energy, lamp.color = size, power, colour
        item = bpy.data.objects.new(name, lamp)
        item.matrix_world = shapes.look_from(position, (0.0, 0.0, 0.0))
        item.visible_camera = False
        bpy.context.scene.collection.objects.link(item)
    world = bpy.data.worlds.new("sky")
    world.use_nodes = True
    nodes, links = world.node_tree.nodes, world.node_tree.links
    split, ramp = nodes.new("ShaderNodeSeparateXYZ"), nodes.new("ShaderNodeValToRGB")
    rise = nodes.new("ShaderNodeMapRange")
    rise.inputs["From Min"].default_value = -1.0
    ramp.color_ramp.elements[0].color = (0.36, 0.31, 0.27, 1.0)
    ramp.color_ramp.elements[1].color = (0.55, 0.72, 1.0, 1.0)
    horizon = ramp.color_ramp.elements.new(0.52)
    horizon.color = (0.9, 0.88, 0.84, 1.0)
    links.new(nodes.new("ShaderNodeTexCoord").outputs["Generated"], split.inputs["Vector"])
    links.new(split.outputs["Z"], rise.inputs["Value"])
    links.new(rise.outputs["Result"], ramp.inputs["Fac"])
    links.new(ramp.outputs["Color"], nodes["Background"].inputs["Color"])
    nodes["Background"].inputs["Strength"].default_value = 0.3
    bpy.context.scene.world = world


def configure(samples: int, threads: int) -> None:
    """Cycles on the CPU, denoised, transparent film, plain sRGB view, SIZE x SIZE RGBA."""
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.device = "CPU"
    scene.cycles.samples = samples
    scene.cycles.use_adaptive_sampling = False
    scene.cycles.use_denoising = True
    scene.cycles.denoiser = "OPENIMAGEDENOISE"
    scene.cycles.denoising_input_passes = "RGB_ALBEDO_NORMAL"
    scene.cycles.denoising_prefilter = "ACCURATE"
    scene.cycles.sample_clamp_indirect = 6.0
    scene.cycles.seed = 1
    scene.render.use_persistent_data = True
    scene.render.threads_mode = "FIXED"
    scene.render.threads = threads
    scene.render.film_transparent = True
    scene.render.resolution_x = scene.render.resolution_y = SIZE
    scene.render.resolution_percentage = 100
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGBA"
    scene.render.image_settings.color_depth = "8"
    scene.view_settings.view_transform = "Standard"
    scene.view_settings.look = "None"
    camera = bpy.data.cameras.new("camera")
    camera.sensor_fit = "HORIZONTAL"
    camera.angle = FIELD_OF_VIEW
    scene.camera = bpy.data.objects.new("camera", camera)
    scene.collection.objects.link(scene.camera)


def visible_pins(position: tuple[float, float, float]) -> list[str]:
    """Names of the pin heads of which the camera sees the near side's middle and rim unobstructed."""
    scene, graph = bpy.context.scene, bpy.context.evaluated_depsgraph_get()
    seen = []
    for name, _, centre in workbench_objects.PINS:
        ahead = (Vector(centre) - Vector(position)).normalized()
        right = ahead.cross(Vector((0.0, 0.0, 1.0))).normalized()
        up = right.cross(ahead)
        reach = 0.8 * workbench_objects.PIN_RADIUS
        targets = [Vector(centre) + reach * (a * right + b * up) for a, b in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))]
        hits = [scene.ray_cast(graph, Vector(position), target - Vector(position)) for target in targets]
        if all(hit[0] and hit[4].name == f"pin {name}" for hit in hits):
            seen.append(name)
    return seen


def save_compact(rendered: Path, target: Path) -> None:
    """Rewrite a PNG small: colour under alpha 0 is cleared, the rest is kept bit for bit."""
    pixels = np.array(Image.open(rendered).convert("RGBA"))
    pixels[pixels[..., 3] == 0] = 0
    Image.fromarray(pixels).save(target, optimize=True)


def sightings(split: str) -> list[dict[str, object]]:
    """Per view of a split, the pins it sees."""
    return [
        {"file_path": f"./{split}/r_{index}", "pins": visible_pins(position)}
        for index, position in enumerate(camera_positions(*SPLITS[split]))
    ]


def render_split(output: Path, split: str, indices: list[int] | None = None) -> None:
    """Render one split (or the views in `indices`) and write its JSON."""
    scene = bpy.context.scene
    folder = output / split
    folder.mkdir(parents=True, exist_ok=True)
    frames = []
    for index, position in enumerate(camera_positions(*SPLITS[split])):
        if indices is not None and index not in indices:
            continue
        matrix = shapes.look_from(position, (0.0, 0.0, 0.0))
        scene.camera.matrix_world = matrix
        bpy.context.view_layer.update()
        with tempfile.TemporaryDirectory() as scratch:
            scene.render.filepath = str(Path(scratch) / "view.png")
            bpy.ops.render.render(write_still=True)
            save_compact(Path(scene.render.filepath), folder / f"r_{index}.png")
        name = f"./{split}/r_{index}"
        frames.append({"file_path": name, "transform_matrix": [[round(x, 9) for x in row] for row in matrix]})
        print(f"{split} {index + 1}/{SPLITS[split][0]}", flush=True)
    document = {"camera_angle_x": FIELD_OF_VIEW, "frames": frames}
    (output / f"transforms_{split}.json").write_text(json.dumps(document, indent=1) + "\n")


def main() -> None:
    """Read the command line, build the scene, render it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write; existing views are replaced")
    parser.add_argument("--samples", type=int, default=64, help="light paths per pixel")
    parser.add_argument("--threads", type=int, default=1, help="processor cores to use")
    parser.add_argument("--splits", nargs="+", choices=list(SPLITS), default=list(SPLITS), help="which to render")
    parser.add_argument("--preview", action="store_true", help="two training views only")
    options = parser.parse_args()
    bpy.ops.wm.read_factory_settings(use_empty=True)
    configure(options.samples, options.threads)
    light()
    workbench_objects.build()
    if options.preview:
        render_split(options.output, "train", [17, 24])
        return
    for split in options.splits:
        render_split(options.output, split)
    pins = {name: {"centre": list(centre), "linear_rgb": list(rgb)} for name, rgb, centre in workbench_objects.PINS}
    document = {
        "pin_radius": workbench_objects.PIN_RADIUS,
        "pins": pins,
        "visible": [view for split in SPLITS for view in sightings(split)],
    }
    (options.output / "pins.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
