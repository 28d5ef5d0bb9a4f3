"""A picture of a volume by Blender's Cycles. Run by a Python that has bpy.

blender_render.py FILE.vdb OUT.png    a fog volume lit by a white world, seen along -Z from above
"""

import sys

import bpy


def render(path, out):
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    bpy.ops.object.volume_import(filepath=path)
    volume = bpy.context.object
    material = bpy.data.materials.new("fog")
    material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    nodes.clear()
    shader, output = nodes.new("ShaderNodeVolumeAbsorption"), nodes.new("ShaderNodeOutputMaterial")
    density = nodes.new("ShaderNodeAttribute")
    density.attribute_name = "density"
    shader.inputs["Color"].default_value = (0, 0, 0, 1)
    links.new(density.outputs["Fac"], shader.inputs["Density"])
    links.new(shader.outputs["Volume"], output.inputs["Volume"])
    volume.data.materials.append(material)
    world = bpy.data.worlds.new("white")
    world.use_nodes = True
    world.node_tree.nodes["Background"].inputs["Color"].default_value = (1, 1, 1, 1)
    scene.world = world
    camera = bpy.data.cameras.new("above")
    camera.type, camera.ortho_scale = "ORTHO", 2.0
    seen = bpy.data.objects.new("above", camera)
    seen.location = (0, 0, 5)
    scene.collection.objects.link(seen)
    scene.camera = seen
    scene.render.engine, scene.cycles.samples = "CYCLES", 8
    scene.render.resolution_x = scene.render.resolution_y = 32
    scene.view_settings.view_transform = "Raw"
    scene.render.filepath = out
    bpy.ops.render.render(write_still=True)


if __name__ == "__main__":
    render(sys.argv[1], sys.argv[2])
