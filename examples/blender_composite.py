"""A Blender object among fields: each hides what is behind it and shines through what is thin.

    voxfield export blender SCENE.json --output fields.py
    blender --background --python examples/blender_composite.py -- fields.py composite.png

A Python that has the module bpy runs it as well: python examples/blender_composite.py -- fields.py composite.png.
`fields.py` is any script that `voxfield export blender` wrote. This one adds a mirroring torus around the middle of
what that script builds, in whose surface the fields are reflected, and renders a frame.
"""

import argparse
import runpy
import sys
from pathlib import Path

import bpy


def add_torus(around, share):
    """A polished torus about the middle of the collection ``around``, a ``share`` of its size."""
    fields = [thing for thing in around.objects if thing.type in {"VOLUME", "MESH"}]
    corners = [thing.matrix_world @ type(thing.location)(corner) for thing in fields for corner in thing.bound_box]
    low = [min(corner[axis] for corner in corners) for axis in range(3)]
    high = [max(corner[axis] for corner in corners) for axis in range(3)]
    size = max(b - a for a, b in zip(low, high, strict=True))
    bpy.ops.mesh.primitive_torus_add(
        location=[(a + b) / 2 for a, b in zip(low, high, strict=True)],
        major_radius=share * size,
        minor_radius=0.2 * share * size,
        major_segments=96,
        minor_segments=32,
    )
    torus = bpy.context.object
    torus.name = "torus"
    material = bpy.data.materials.new("polished")
    material.use_nodes = True
    shader = material.node_tree.nodes["Principled BSDF"]
    shader.inputs["Metallic"].default_value, shader.inputs["Roughness"].default_value = 1.0, 0.05
    torus.data.materials.append(material)
    for polygon in torus.data.polygons:
        polygon.use_smooth = True


def main(arguments):
    """Build, add, render."""
    parser = argparse.ArgumentParser(prog="blender_composite.py", description=__doc__.splitlines()[0])
    parser.add_argument("script", type=Path, help="what voxfield export blender wrote")
    parser.add_argument("picture", type=Path, help="the .png file to make")
    parser.add_argument("--frame", type=int, default=1)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--width", type=int, default=800)
    parser.add_argument("--share", type=float, default=0.3, help="radius of the torus as a share of the scene")
    options = parser.parse_args(arguments)
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene_script = runpy.run_path(str(options.script.resolve()))
    add_torus(scene_script["build"](), options.share)
    scene = bpy.context.scene
    shape = scene.render.resolution_y / scene.render.resolution_x
    scene.render.resolution_x, scene.render.resolution_y = options.width, round(options.width * shape)
    scene.cycles.samples = options.samples
    scene.frame_set(options.frame)
    scene.render.filepath = str(options.picture.resolve())
    bpy.ops.render.render(write_still=True)


if __name__ == "__main__":
    main(sys.argv[sys.argv.index("--") + 1 :])
