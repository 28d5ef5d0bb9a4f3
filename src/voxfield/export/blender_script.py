"""The text of the scripts that `voxfield.export.blender` writes. It runs within Blender, never here.

Blender is GPL software and is not imported by Voxfield: its Python reads the script, which knows nothing of this
package. What a script holds of its own stands in ``SCENE``, which takes the place of ``@SCENE@``.
"""

from typing import Final

SCRIPT: Final = r'''"""A Voxfield scene for Blender 4.2 or later: fields, the cameras of photographs, a camera path.

    blender --background --python @NAME@ -- --save FILE.blend    build the scene and save it
    blender --background --python @NAME@ -- --render FILE.png    build it and render a frame; --frame N says which
    blender --background FILE.blend --python @NAME@ -- --camera-path FILE.json
                                                                 write the scene's camera for voxfield render --path

A Python that has the module bpy runs it as well; --open FILE.blend then says what to open. In Blender's text editor,
"Run Script" adds the scene to what is open. The files it names lie beside it.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import bpy
from mathutils import Matrix

SCENE = @SCENE@

CONSTANT_HARMONIC = 0.28209479177387814


def build():
    """Add the scene as a collection of its own, in place of the one of that name; returns it."""
    name = SCENE["name"]
    old = bpy.data.collections.get(name)
    if old is not None:
        for thing in list(old.all_objects):
            bpy.data.objects.remove(thing, do_unlink=True)
        for child in list(old.children_recursive):
            bpy.data.collections.remove(child)
        bpy.data.collections.remove(old)
    collection = bpy.data.collections.new(name)
    bpy.context.scene.collection.children.link(collection)
    for member in SCENE["members"]:
        add = add_mesh if member["kind"] == "mesh" else add_volume
        thing = add(member)
        thing.matrix_world = Matrix(member["matrix"])
        collection.objects.link(thing)
    if SCENE["cameras"]:
        photographs = bpy.data.collections.new(name + " cameras")
        collection.children.link(photographs)
        for entry in SCENE["cameras"]:
            photographs.objects.link(add_camera(entry))
    set_up(SCENE["render"])
    if SCENE["path"]:
        film = add_path(SCENE["path"])
        collection.objects.link(film)
        bpy.context.scene.camera = film
    elif SCENE["cameras"]:
        bpy.context.scene.camera = photographs.objects[0]
    return collection


def beside(relative):
    """The path of a file that lies beside this script."""
    places = [Path(text.filepath) for text in bpy.data.texts if text.filepath]
    for script in [Path(__file__), *map(lambda place: Path(bpy.path.abspath(str(place))), places)]:
        if (script.parent / relative).is_file():
            return str(script.parent / relative)
    raise FileNotFoundError(f"{relative} does not lie beside this script: keep them together.")


def add_volume(member):
    """A volume with a material that absorbs and glows as the field does."""
    volume = bpy.data.volumes.new(member["name"])
    volume.filepath = beside(member["file"])
    # Densities are per unit of the field's own world, however large it is made here.
    volume.render.space = "OBJECT"
    volume.materials.append(fog(member))
    return bpy.data.objects.new(member["name"], volume)


def fog(member):
    """Absorption by the density, and as much light of the field's colour in its place."""
    material, tree = fresh_material(member["name"])
    nodes, links = tree.nodes, tree.links
    output, add = nodes.new("ShaderNodeOutputMaterial"), nodes.new("ShaderNodeAddShader")
    absorption, emission = nodes.new("ShaderNodeVolumeAbsorption"), nodes.new("ShaderNodeEmission")
    density, factor = nodes.new("ShaderNodeAttribute"), nodes.new("ShaderNodeMath")
    density.attribute_name = member["density_grid"]
    factor.operation = "MULTIPLY"
    factor.inputs[1].default_value = member["density_factor"]
    absorption.inputs["Color"].default_value = (0.0, 0.0, 0.0, 1.0)
    links.new(density.outputs["Fac"], factor.inputs[0])
    links.new(factor.outputs[0], absorption.inputs["Density"])
    links.new(factor.outputs[0], emission.inputs["Strength"])
    links.new(absorption.outputs[0], add.inputs[0])
    links.new(emission.outputs[0], add.inputs[1])
    links.new(add.outputs[0], output.inputs["Volume"])
    if member["colour_grid"] is None:
        emission.inputs["Color"].default_value = (*member["colour"], 1.0)
    else:
        links.new(glow(tree, member), emission.inputs["Color"])
    return material


def glow(tree, member):
    """The socket of a volume's colours in linear light."""
    nodes, links = tree.nodes, tree.links
    colour = nodes.new("ShaderNodeAttribute")
    colour.attribute_name = member["colour_grid"]
    scale, shift = (CONSTANT_HARMONIC, 0.5) if member["harmonics"] else (1.0, 0.0)
    least = 0.0
    if not member["linear"]:
        # sRGB to linear light but for its first twentieth: ((c + 0.055) / 1.055) ** 2.4.
        scale, shift, least = scale / 1.055, (shift + 0.055) / 1.055, 0.055 / 1.055
    change, floor = nodes.new("ShaderNodeVectorMath"), nodes.new("ShaderNodeVectorMath")
    change.operation, floor.operation = "MULTIPLY_ADD", "MAXIMUM"
    change.inputs[1].default_value, change.inputs[2].default_value = (scale,) * 3, (shift,) * 3
    floor.inputs[1].default_value = (least,) * 3
    links.new(colour.outputs["Vector"], change.inputs[0])
    links.new(change.outputs[0], floor.inputs[0])
    if member["linear"]:
        return floor.outputs[0]
    gamma = nodes.new("ShaderNodeGamma")
    gamma.inputs["Gamma"].default_value = 2.4
    links.new(floor.outputs[0], gamma.inputs["Color"])
    return gamma.outputs[0]


def add_mesh(member):
    """A mesh that shines in its vertices' colours: a field's colours hold the light already."""
    known = set(bpy.data.objects)
    bpy.ops.wm.ply_import(filepath=beside(member["file"]), import_colors="SRGB")
    (thing,) = set(bpy.data.objects) - known
    for collection in list(thing.users_collection):
        collection.objects.unlink(thing)
    thing.name = member["name"]
    material, tree = fresh_material(member["name"])
    colour, emission = tree.nodes.new("ShaderNodeAttribute"), tree.nodes.new("ShaderNodeEmission")
    output = tree.nodes.new("ShaderNodeOutputMaterial")
    colour.attribute_name = thing.data.color_attributes[0].name
    tree.links.new(colour.outputs["Color"], emission.inputs["Color"])
    tree.links.new(emission.outputs[0], output.inputs["Surface"])
    thing.data.materials.clear()
    thing.data.materials.append(material)
    return thing


def fresh_material(name):
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    material.node_tree.nodes.clear()
    return material, material.node_tree


def add_camera(entry):
    """A camera that takes the photograph's place."""
    data = bpy.data.cameras.new(entry["name"])
    width, height = entry["size"]
    data.sensor_fit, data.sensor_width = "HORIZONTAL", 36.0
    data.lens = entry["focal"] / width * 36.0
    data.shift_x = (width / 2 - entry["principal"][0]) / width
    data.shift_y = (entry["principal"][1] - height / 2) / width
    data.display_size = SCENE["camera_size"]
    thing = bpy.data.objects.new(entry["name"], data)
    thing.matrix_world = Matrix(entry["matrix"])
    return thing


def add_path(path):
    """A camera with a key for every frame of the path."""
    data = bpy.data.cameras.new(path["name"])
    data.sensor_fit, data.sensor_height = "VERTICAL", 24.0
    data.display_size = SCENE["camera_size"]
    film = bpy.data.objects.new(path["name"], data)
    film.rotation_mode = "QUATERNION"
    before = None
    for frame, (matrix, fov) in enumerate(zip(path["matrices"], path["fovs"]), start=1):
        place = Matrix(matrix)
        turn = place.to_quaternion()
        if before is not None:
            # Of the two quaternions of a rotation the one next to the last: between frames nothing turns round.
            turn.make_compatible(before)
        film.location, film.rotation_quaternion, before = place.to_translation(), turn, turn
        data.lens = 12.0 / math.tan(math.radians(fov) / 2)
        film.keyframe_insert("location", frame=frame)
        film.keyframe_insert("rotation_quaternion", frame=frame)
        data.keyframe_insert("lens", frame=frame)
    scene = bpy.context.scene
    scene.frame_start, scene.frame_end = 1, len(path["matrices"])
    scene.render.fps = max(1, round(path["fps"]))
    scene.render.fps_base = scene.render.fps / path["fps"]
    scene.frame_set(1)
    return film


def set_up(render):
    """Size, engine, colours and world."""
    scene = bpy.context.scene
    scene.render.resolution_x, scene.render.resolution_y = render["size"]
    scene.render.resolution_percentage = 100
    scene.render.engine = "CYCLES"
    scene.cycles.samples = render["samples"]
    scene.cycles.transparent_max_bounces = 64
    scene.render.image_settings.file_format = "PNG"
    # A field's colours are meant as they are: no filmic curve.
    scene.view_settings.view_transform, scene.view_settings.look = "Standard", "None"
    world = bpy.data.worlds.new(SCENE["name"])
    world.use_nodes = True
    world.node_tree.nodes["Background"].inputs["Color"].default_value = (*render["background"], 1.0)
    scene.world = world


def write_camera_path(file, camera=None):
    """Write a camera, frame by frame, as a camera path that nerfstudio and ``voxfield render --path`` read.

    ``camera`` is an object; None: the scene's camera. Its markers and constraints count: what is written is where it is
    in each frame of the scene.
    """
    scene = bpy.context.scene
    if camera is None:
        camera = scene.camera
    if camera is None or camera.type != "CAMERA":
        raise ValueError("The scene has no camera. Add one, or name an object that is a camera.")
    size = [max(1, round(side * scene.render.resolution_percentage / 100))
            for side in (scene.render.resolution_x, scene.render.resolution_y)]
    fps = scene.render.fps / scene.render.fps_base
    current, frames = scene.frame_current, []
    for frame in range(scene.frame_start, scene.frame_end + 1):
        scene.frame_set(frame)
        place, turn, _ = camera.matrix_world.decompose()
        matrix = Matrix.Translation(place) @ turn.to_matrix().to_4x4()
        rows = [value for row in matrix for value in row]
        frames.append({"camera_to_world": rows, "fov": field_of_view(camera.data, scene), "aspect": size[0] / size[1]})
    scene.frame_set(current)
    path = {
        "camera_type": "equirectangular" if camera.data.type == "PANO" else "perspective",
        "render_width": size[0],
        "render_height": size[1],
        "fps": fps,
        "seconds": len(frames) / fps,
        "is_cycle": False,
        "camera_path": frames,
    }
    Path(file).write_text(json.dumps(path, indent=1), encoding="utf-8")
    print(f"Wrote {len(frames)} frames of {camera.name} to {file}")


def field_of_view(data, scene):
    """The vertical angle of a camera, in degrees."""
    if data.type == "PANO":
        return 90.0
    if data.type != "PERSP":
        raise ValueError("Orthographic cameras have no field of view. Make the camera a perspective one.")
    if abs(data.shift_x) + abs(data.shift_y) > 1e-6:
        raise ValueError("The camera is shifted, which camera paths do not know. Set its shifts to 0.")
    corners = data.view_frame(scene=scene)
    height = max(corner.y for corner in corners) - min(corner.y for corner in corners)
    return math.degrees(2 * math.atan(0.5 * height / -corners[0].z))


def main(arguments):
    parser = argparse.ArgumentParser(prog=Path(__file__).name)
    parser.add_argument("--open", help="open this .blend file first")
    parser.add_argument("--save", help="build the scene and save it as this .blend file")
    parser.add_argument("--render", help="build the scene and render a frame to this .png file")
    parser.add_argument("--frame", type=int, default=1, help="of --render")
    parser.add_argument("--samples", type=int, help="of a pixel; more take longer and are less noisy")
    parser.add_argument("--width", type=int, help="of pictures, pixels; their height follows")
    parser.add_argument("--camera-path", help="build nothing; write the scene's camera as this .json file")
    options = parser.parse_args(arguments)
    if options.open:
        bpy.ops.wm.open_mainfile(filepath=str(Path(options.open).resolve()))
    if options.camera_path:
        write_camera_path(options.camera_path)
        return
    if bpy.app.background and not bpy.data.filepath:
        # The objects of a new file are nobody's work.
        bpy.ops.wm.read_factory_settings(use_empty=True)
    build()
    render = bpy.context.scene.render
    if options.samples:
        bpy.context.scene.cycles.samples = options.samples
    if options.width:
        shape = render.resolution_y / render.resolution_x
        render.resolution_x, render.resolution_y = options.width, max(1, round(options.width * shape))
    if options.save:
        # Files are then named as they lie beside the .blend, of which there is one.
        bpy.context.preferences.filepaths.save_version = 0
        bpy.ops.wm.save_as_mainfile(filepath=str(Path(options.save).resolve()), relative_remap=True)
        bpy.ops.file.make_paths_relative()
        bpy.ops.wm.save_mainfile()
    if options.render:
        bpy.context.scene.frame_set(options.frame)
        render.filepath = str(Path(options.render).resolve())
        bpy.ops.render.render(write_still=True)


if __name__ == "__main__":
    main(sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else [])
'''
"""With ``@NAME@`` for the script's name and ``@SCENE@`` for what it holds."""
