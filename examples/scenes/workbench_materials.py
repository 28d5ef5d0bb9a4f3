"""Procedural materials of the workbench scene: node graphs only, no image files.

Runs inside Blender's ``bpy`` (see README.md); nothing here is imported by the package. Colours are linear RGB in
[0, 1], lengths are world units. Each function returns a new ``bpy.types.Material``.
"""

import bpy

Colour = tuple[float, float, float]


def _principled(name: str) -> tuple[bpy.types.Material, bpy.types.Node]:
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    return material, material.node_tree.nodes["Principled BSDF"]


def _coordinates(material: bpy.types.Material, scale: Colour) -> bpy.types.NodeSocket:
    """Object-space position times `scale`: textures stick to the object, wherever it stands."""
    nodes, links = material.node_tree.nodes, material.node_tree.links
    mapping = nodes.new("ShaderNodeMapping")
    mapping.inputs["Scale"].default_value = scale
    links.new(nodes.new("ShaderNodeTexCoord").outputs["Object"], mapping.inputs["Vector"])
    return mapping.outputs["Vector"]


def _ramp(
    material: bpy.types.Material,
    factor: bpy.types.NodeSocket,
    stops: list[tuple[float, Colour]],
    *,
    hard: bool = False,
) -> bpy.types.NodeSocket:
    node = material.node_tree.nodes.new("ShaderNodeValToRGB")
    node.color_ramp.interpolation = "CONSTANT" if hard else "LINEAR"
    elements = node.color_ramp.elements
    while len(elements) < len(stops):
        elements.new(1.0)
    for element, (position, colour) in zip(elements, stops, strict=True):
        element.position = position
        element.color = (*colour, 1.0)
    material.node_tree.links.new(factor, node.inputs["Fac"])
    return node.outputs["Color"]


def _bump(material: bpy.types.Material, height: bpy.types.NodeSocket, *, strength: float, distance: float) -> None:
    node = material.node_tree.nodes.new("ShaderNodeBump")
    node.inputs["Strength"].default_value = strength
    node.inputs["Distance"].default_value = distance
    links = material.node_tree.links
    links.new(height, node.inputs["Height"])
    links.new(node.outputs["Normal"], material.node_tree.nodes["Principled BSDF"].inputs["Normal"])


def plain(
    name: str,
    colour: Colour,
    *,
    roughness: float = 0.5,
    metallic: float = 0.0,
    coat: float = 0.0,
    specular: float = 0.5,
) -> bpy.types.Material:
    """One colour. `coat` in [0, 1] adds a clear glossy layer (enamel, lacquer, glaze)."""
    material, shader = _principled(name)
    shader.inputs["Base Color"].default_value = (*colour, 1.0)
    shader.inputs["Roughness"].default_value = roughness
    shader.inputs["Metallic"].default_value = metallic
    shader.inputs["Specular IOR Level"].default_value = specular
    shader.inputs["Coat Weight"].default_value = coat
    shader.inputs["Coat Roughness"].default_value = 0.06
    return material


def translucent_plastic(name: str, colour: Colour) -> bpy.types.Material:
    """Glossy plastic that glows a little when lit from behind; opaque in the alpha channel."""
    material, shader = _principled(name)
    shader.inputs["Base Color"].default_value = (*colour, 1.0)
    shader.inputs["Roughness"].default_value = 0.18
    shader.inputs["Subsurface Weight"].default_value = 0.7
    shader.inputs["Subsurface Radius"].default_value = (1.0, 0.5, 0.25)
    shader.inputs["Subsurface Scale"].default_value = 0.08
    return material


def emitter(name: str, colour: Colour, strength: float) -> bpy.types.Material:
    """A lamp's bulb: `strength` in watts per square unit and steradian, as Cycles counts it."""
    material, shader = _principled(name)
    shader.inputs["Base Color"].default_value = (*colour, 1.0)
    shader.inputs["Emission Color"].default_value = (*colour, 1.0)
    shader.inputs["Emission Strength"].default_value = strength
    return material


def wood(name: str, light: Colour, dark: Colour, *, rings: float = 2.2) -> bpy.types.Material:
    """Planed, lightly lacquered board: year rings cut lengthwise, wobbling with noise."""
    middle = tuple(0.45 * a + 0.55 * b for a, b in zip(light, dark, strict=True))
    material, shader = _principled(name)
    nodes, links = material.node_tree.nodes, material.node_tree.links
    wave = nodes.new("ShaderNodeTexWave")
    wave.wave_type = "RINGS"
    wave.rings_direction = "Y"
    wave.inputs["Scale"].default_value = rings
    wave.inputs["Distortion"].default_value = 7.0
    wave.inputs["Detail"].default_value = 2.0
    wave.inputs["Detail Scale"].default_value = 0.9
    links.new(_coordinates(material, (1.0, 0.22, 1.2)), wave.inputs["Vector"])
    links.new(
        _ramp(material, wave.outputs["Fac"], [(0.0, dark), (0.3, light), (0.75, light), (1.0, middle)]),
        shader.inputs["Base Color"],
    )
    shader.inputs["Roughness"].default_value = 0.42
    shader.inputs["Coat Weight"].default_value = 0.25
    shader.inputs["Coat Roughness"].default_value = 0.25
    return material


def banded_glaze(name: str, bands: list[tuple[float, Colour]], *, height: float) -> bpy.types.Material:
    """Glazed ceramic, hard bands along the object's z; `bands` holds (fraction of `height`, colour)."""
    material, shader = _principled(name)
    nodes, links = material.node_tree.nodes, material.node_tree.links
    split = nodes.new("ShaderNodeSeparateXYZ")
    links.new(_coordinates(material, (1.0, 1.0, 1.0 / height)), split.inputs["Vector"])
    links.new(_ramp(material, split.outputs["Z"], bands, hard=True), shader.inputs["Base Color"])
    shader.inputs["Roughness"].default_value = 0.3
    shader.inputs["Coat Weight"].default_value = 1.0
    shader.inputs["Coat Roughness"].default_value = 0.04
    return material


def speckled_glaze(name: str, ground: Colour, specks: Colour) -> bpy.types.Material:
    """Stoneware: a glossy ground with irregular dark specks."""
    material, shader = _principled(name)
    nodes, links = material.node_tree.nodes, material.node_tree.links
    noise = nodes.new("ShaderNodeTexNoise")
    noise.inputs["Scale"].default_value = 24.0
    noise.inputs["Detail"].default_value = 1.0
    links.new(_coordinates(material, (1.0, 1.0, 1.0)), noise.inputs["Vector"])
    links.new(
        _ramp(material, noise.outputs["Fac"], [(0.0, specks), (0.36, specks), (0.42, ground)]),
        shader.inputs["Base Color"],
    )
    shader.inputs["Roughness"].default_value = 0.3
    shader.inputs["Coat Weight"].default_value = 1.0
    return material


def woven(name: str, colours: tuple[Colour, Colour], *, squares: float) -> bpy.types.Material:
    """Checked cloth over the UV square: matt, with a soft sheen and a shallow weave."""
    material, shader = _principled(name)
    nodes, links = material.node_tree.nodes, material.node_tree.links
    uv = nodes.new("ShaderNodeTexCoord").outputs["UV"]
    checker = nodes.new("ShaderNodeTexChecker")
    checker.inputs["Scale"].default_value = squares
    checker.inputs["Color1"].default_value = (*colours[0], 1.0)
    checker.inputs["Color2"].default_value = (*colours[1], 1.0)
    links.new(uv, checker.inputs["Vector"])
    links.new(checker.outputs["Color"], shader.inputs["Base Color"])
    shader.inputs["Roughness"].default_value = 0.95
    shader.inputs["Specular IOR Level"].default_value = 0.1
    shader.inputs["Sheen Weight"].default_value = 0.4
    return material


def leaf(name: str, colour: Colour, vein: Colour) -> bpy.types.Material:
    """Leaf over UV (u across, v along): a paler midrib, waxy surface, light shining through."""
    material, shader = _principled(name)
    nodes, links = material.node_tree.nodes, material.node_tree.links
    split = nodes.new("ShaderNodeSeparateXYZ")
    links.new(nodes.new("ShaderNodeTexCoord").outputs["UV"], split.inputs["Vector"])
    tip = tuple(min(1.0, 1.7 * c) for c in colour)
    links.new(
        _ramp(
            material,
            split.outputs["X"],
            [
                (0.0, tip),
                (0.3, colour),
                (0.44, colour),
                (0.5, vein),
                (0.56, colour),
                (0.7, colour),
                (1.0, tip),
            ],
        ),
        shader.inputs["Base Color"],
    )
    shader.inputs["Roughness"].default_value = 0.32
    shader.inputs["Subsurface Weight"].default_value = 0.2
    shader.inputs["Subsurface Scale"].default_value = 0.03
    return material


def brushed_metal(name: str, colour: Colour, *, roughness: float = 0.28) -> bpy.types.Material:
    """Metal with fine turning marks along z."""
    material, shader = _principled(name)
    nodes, links = material.node_tree.nodes, material.node_tree.links
    noise = nodes.new("ShaderNodeTexNoise")
    noise.inputs["Scale"].default_value = 6.0
    links.new(_coordinates(material, (1.0, 1.0, 18.0)), noise.inputs["Vector"])
    _bump(material, noise.outputs["Fac"], strength=0.12, distance=0.02)
    shader.inputs["Base Color"].default_value = (*colour, 1.0)
    shader.inputs["Metallic"].default_value = 1.0
    shader.inputs["Roughness"].default_value = roughness
    return material
