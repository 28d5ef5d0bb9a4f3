"""The things on the workbench: one function each, called in turn by `build`.

Runs inside Blender's ``bpy``. Everything stands on the board, whose upper side is z = TOP; the whole scene stays
inside the box [-1.2, 1.2]^3. World axes: right-handed, +Z up, lengths in world units.
"""

import colorsys
import math
import random

import bpy
import workbench_materials as materials
import workbench_shapes as shapes
from mathutils import Matrix, Vector

TOP = -0.56
BOARD_RADIUS = 1.1

# Pin heads: name, linear RGB, centre. Their pixels are found again by colour, to check poses against pictures.
PINS: tuple[tuple[str, tuple[float, float, float], tuple[float, float, float]], ...] = (
    ("red", (0.9, 0.01, 0.01), (1.02, 0.1, TOP + 0.34)),
    ("green", (0.01, 0.6, 0.02), (0.45, 0.94, TOP + 0.3)),
    ("blue", (0.01, 0.03, 0.85), (-0.45, 0.93, TOP + 0.36)),
    ("magenta", (0.85, 0.01, 0.55), (-1.03, 0.0, TOP + 0.3)),
)
PIN_RADIUS = 0.042


def board() -> None:
    """The round wooden base with a brass edge."""
    oak = materials.wood("oak", (0.52, 0.29, 0.12), (0.27, 0.125, 0.045))
    edge = 0.07
    profile = [
        (1e-4, -edge),
        (BOARD_RADIUS - 0.03, -edge),
        (BOARD_RADIUS, -edge + 0.02),
        (BOARD_RADIUS, -0.015),
        (BOARD_RADIUS - 0.015, 0.0),
        (1e-4, 0.0),
    ]
    shapes.lathe("board", profile, oak, location=(0.0, 0.0, TOP), segments=128)
    brass = materials.plain("brass", (0.85, 0.58, 0.2), roughness=0.22, metallic=1.0)
    band = shapes.torus("board band", BOARD_RADIUS, 0.012, brass, squash=1.4)
    band.location.z = TOP - 0.035


def books() -> None:
    """Three closed books, the pedestal of the voxel ball."""
    paper = materials.plain("paper", (0.8, 0.75, 0.62), roughness=0.9)
    covers = ((0.04, 0.09, 0.24), (0.42, 0.045, 0.04), (0.62, 0.42, 0.08))
    level = TOP
    for index, (size, turn) in enumerate((((0.72, 0.54), 0.2), ((0.64, 0.5), -0.12), ((0.56, 0.44), 0.42))):
        cloth = materials.plain(f"cover {index}", covers[index], roughness=0.55)
        thick = (0.085, 0.07, 0.055)[index]
        for cover_z in (level + 0.006, level + thick - 0.006):
            shapes.box("cover", (*size, 0.012), cloth, location=(0.0, 0.12, cover_z), turn=turn, bevel=0.004)
        back = Vector((-size[0] / 2 + 0.006, 0.0, 0.0))
        back.rotate(Matrix.Rotation(turn, 3, "Z"))
        shapes.box(
            "spine",
            (0.012, size[1], thick),
            cloth,
            location=(back.x, 0.12 + back.y, level + thick / 2),
            turn=turn,
            bevel=0.004,
        )
        shapes.box(
            "pages",
            (size[0] - 0.03, size[1] - 0.03, thick - 0.02),
            paper,
            location=(0.0, 0.12, level + thick / 2),
            turn=turn,
            bevel=0.0,
        )
        level += thick


def voxel_ball() -> None:
    """A ball of glossy cubes with one octant taken out, coloured by height outside and by depth within."""
    count, pitch = 9, 0.062
    centre = Vector((0.0, 0.12, TOP + 0.21 + count * pitch / 2))
    middle = (count - 1) / 2
    palette: dict[int, bpy.types.Material] = {}
    for i in range(count):
        for j in range(count):
            for k in range(count):
                offset = Vector((i - middle, j - middle, k - middle))
                distance = offset.length
                removed = offset.x > 0.5 and offset.y < -0.5 and offset.z > 0.5
                if distance > middle + 0.35 or removed or _hidden(offset, middle):
                    continue
                shade = round(
                    10 * (0.52 - 0.5 * k / (count - 1) if distance > middle - 1.0 else 0.95 - 0.08 * distance)
                )
                if shade not in palette:
                    rgb = colorsys.hsv_to_rgb((shade / 10) % 1.0, 0.86, 0.72)
                    palette[shade] = materials.plain(f"voxel {shade}", rgb, roughness=0.22, coat=0.3)
                shapes.box(
                    "voxel",
                    (pitch * 0.93,) * 3,
                    palette[shade],
                    location=tuple(centre + pitch * offset),
                    bevel=0.006,
                )


def _hidden(offset: Vector, middle: float) -> bool:
    """Whether a cube lies so deep that neither the surface nor the cut shows it."""
    near_cut = offset.x > -1.5 and offset.y < 1.5 and offset.z > -1.5
    return offset.length < middle - 1.6 and not near_cut


def lamp() -> None:
    """An enamelled desk lamp: weighted foot, two thin arms with a joint, conical shade, warm bulb, cable."""
    enamel = materials.plain("lamp enamel", (0.012, 0.19, 0.17), roughness=0.25, coat=1.0)
    steel = materials.plain("lamp steel", (0.75, 0.75, 0.76), roughness=0.16, metallic=1.0)
    foot, elbow, head = (-0.66, 0.5, TOP), (-0.86, 0.55, 0.24), (-0.36, 0.3, 0.76)
    shapes.lathe(
        "lamp foot",
        [(1e-4, 0.0), (0.2, 0.0), (0.2, 0.025), (0.17, 0.045), (0.05, 0.055), (0.03, 0.1), (1e-4, 0.1)],
        enamel,
        location=foot,
    )
    start = Vector((foot[0], foot[1], foot[2] + 0.09))
    side = Vector((0.24, 0.9, 0.0)).normalized() * 0.018
    for sign in (-1, 1):
        shapes.tube(
            "lower arm",
            [tuple(start + sign * side), tuple(Vector(elbow) + sign * side)],
            0.009,
            steel,
            smooth=False,
        )
        shapes.tube(
            "upper arm",
            [tuple(Vector(elbow) + sign * side), tuple(Vector(head) + sign * side)],
            0.009,
            steel,
            smooth=False,
        )
    shapes.ball("elbow", 0.036, enamel, location=elbow)
    shapes.ball("neck", 0.034, enamel, location=head)
    outer = [(0.035, 0.02), (0.05, -0.02), (0.075, -0.07), (0.19, -0.25)]
    inner = [(0.178, -0.25), (0.064, -0.07), (1e-4, -0.03)]
    white = materials.plain("shade inside", (0.9, 0.88, 0.82), roughness=0.6)
    parts = [
        shapes.lathe("shade", [(1e-4, 0.02), *outer, inner[0]], enamel),
        shapes.lathe("shade inside", inner, white),
        shapes.ball("bulb", 0.06, materials.emitter("bulb", (1.0, 0.78, 0.5), 6.0), location=(0.0, 0.0, -0.13)),
    ]
    shapes.place(parts, Matrix.Translation(head) @ Matrix.Rotation(math.radians(-24), 4, Vector((-0.5, 0.86, 0.0))))
    cable = [
        (foot[0] - 0.19, foot[1] + 0.02, TOP + 0.02),
        (-0.92, 0.42, TOP + 0.014),
        (-1.0, 0.2, TOP + 0.014),
        (-0.86, 0.02, TOP + 0.014),
        (-0.66, 0.14, TOP + 0.014),
        (-0.5, 0.02, TOP + 0.014),
        (-0.6, -0.14, TOP + 0.014),
    ]
    shapes.tube("cable", cable, 0.014, materials.plain("cable", (0.75, 0.3, 0.02), roughness=0.6))


def wheel() -> None:
    """A spoked wheel in a stand: rubber tyre, polished rim, 24 wire spokes crossing to a hub."""
    rubber = materials.plain("rubber", (0.018, 0.018, 0.02), roughness=0.6)
    tan = materials.plain("tyre wall", (0.5, 0.3, 0.13), roughness=0.7)
    steel = materials.plain("wheel steel", (0.8, 0.8, 0.82), roughness=0.14, metallic=1.0)
    satin = materials.plain("spoke steel", (0.7, 0.7, 0.72), roughness=0.4, metallic=1.0)
    red = materials.plain("hub", (0.6, 0.02, 0.02), roughness=0.25, coat=1.0)
    rim, hub = 0.355, 0.045
    parts = [
        shapes.torus("tyre", 0.4, 0.034, rubber),
        shapes.torus("tyre wall", 0.384, 0.03, tan, squash=0.99),
        shapes.torus("rim", rim, 0.02, steel, squash=1.3),
        shapes.lathe(
            "hub",
            [
                (1e-4, -0.08),
                (0.02, -0.08),
                (0.02, -0.05),
                (hub, -0.05),
                (hub, -0.035),
                (0.026, -0.03),
                (0.026, 0.03),
                (hub, 0.035),
                (hub, 0.05),
                (0.02, 0.05),
                (0.02, 0.08),
                (1e-4, 0.08),
            ],
            red,
        ),
    ]
    for index in range(24):
        side = 1 if index % 2 else -1
        at, cross = 2 * math.pi * index / 24, math.radians(55) * (1 if index % 4 < 2 else -1)
        outer = (rim * math.cos(at), rim * math.sin(at), 0.0)
        inner = (hub * math.cos(at + cross), hub * math.sin(at + cross), 0.042 * side)
        parts.append(shapes.tube("spoke", [inner, outer], 0.006, satin, smooth=False))
    legs = [[(0.2, -0.455, 0.13 * s), (0.0, 0.0, 0.068 * s), (-0.2, -0.455, 0.13 * s)] for s in (-1, 1)]
    parts += [shapes.tube("stand", leg, 0.012, red, smooth=False) for leg in legs]
    turned = Matrix.Rotation(math.radians(-52), 4, "Z") @ Matrix.Rotation(math.radians(90), 4, "X")
    shapes.place(parts, Matrix.Translation((0.66, 0.42, TOP + 0.466)) @ turned)


def plant() -> None:
    """A plant with arching leaves in a speckled pot."""
    pot = materials.speckled_glaze("stoneware", (0.6, 0.62, 0.6), (0.04, 0.08, 0.12))
    soil = materials.plain("soil", (0.05, 0.03, 0.018), roughness=1.0)
    x, y = -0.64, -0.42
    shapes.lathe(
        "pot",
        [(1e-4, 0.0), (0.12, 0.0), (0.14, 0.03), (0.175, 0.22), (0.185, 0.26), (0.165, 0.26), (0.15, 0.2)],
        pot,
        location=(x, y, TOP),
    )
    shapes.lathe("soil", [(0.158, 0.0), (1e-4, 0.02)], soil, location=(x, y, TOP + 0.22))
    draw = random.Random(7)
    for index in range(17):
        green = materials.leaf(
            f"leaf {index}", (0.03 + 0.05 * draw.random(), 0.2 + 0.13 * draw.random(), 0.035), (0.5, 0.6, 0.2)
        )
        heading = 2.399963 * index + draw.uniform(-0.2, 0.2)
        reach, rise = draw.uniform(0.2, 0.36), draw.uniform(0.26, 0.62)
        wide = draw.uniform(0.042, 0.06)

        def surface(
            u: float,
            v: float,
            *,
            heading: float = heading,
            reach: float = reach,
            rise: float = rise,
            wide: float = wide,
        ) -> tuple[float, float, float]:
            along = reach * (0.08 + 0.92 * v**1.35)
            high = rise * (1.55 * v - 0.85 * v**2.2)
            half = wide * (0.1 + math.sin(math.pi * min(1.0, 0.06 + 0.94 * v)) ** 0.8) * (1.0 - 0.55 * v)
            across = (2 * u - 1) * half
            fold = 0.35 * abs(across)
            cos, sin = math.cos(heading), math.sin(heading)
            return (x + along * cos - across * sin, y + along * sin + across * cos, TOP + 0.22 + high + fold)

        shapes.sheet("leaf", surface, green, steps=(6, 20), thickness=0.006)


def crockery() -> None:
    """A banded glazed mug, a small vase, and a polished copper ball."""
    white, navy, ochre = (0.82, 0.8, 0.74), (0.012, 0.045, 0.2), (0.7, 0.3, 0.03)
    bands = [(0.0, navy), (0.16, white), (0.42, ochre), (0.5, white), (0.6, navy), (0.68, white), (0.9, navy)]
    glaze = materials.banded_glaze("mug glaze", bands, height=0.3)
    outer = [(1e-4, 0.0), (0.12, 0.0), (0.135, 0.015), (0.15, 0.1), (0.145, 0.28), (0.14, 0.297)]
    inner = [(0.128, 0.297), (0.125, 0.27), (0.125, 0.06), (1e-4, 0.04)]
    mug = shapes.lathe("mug", outer + inner, glaze, location=(0.7, -0.3, TOP))
    mug.rotation_euler.z = 0.3
    ring = [
        (0.7 + dx, -0.3 + dy, TOP + z)
        for dx, dy, z in (
            (0.12, -0.06, 0.235),
            (0.2, -0.1, 0.25),
            (0.255, -0.128, 0.19),
            (0.24, -0.12, 0.1),
            (0.125, -0.062, 0.07),
        )
    ]
    shapes.tube("mug handle", ring, 0.02, materials.plain("handle glaze", navy, roughness=0.3, coat=1.0))
    coffee = materials.plain("coffee", (0.035, 0.014, 0.006), roughness=0.08)
    shapes.lathe("coffee", [(0.126, 0.0), (1e-4, 0.0)], coffee, location=(0.7, -0.3, TOP + 0.24))
    copper = materials.plain("copper", (0.95, 0.45, 0.26), roughness=0.07, metallic=1.0)
    shapes.ball("copper ball", 0.12, copper, location=(-0.24, -0.46, TOP + 0.12))
    profile = [
        (1e-4, 0.0),
        (0.06, 0.0),
        (0.1, 0.06),
        (0.11, 0.12),
        (0.075, 0.21),
        (0.035, 0.28),
        (0.034, 0.34),
        (0.055, 0.37),
        (0.046, 0.37),
        (0.025, 0.33),
        (0.025, 0.28),
    ]
    celadon = materials.plain("celadon", (0.2, 0.5, 0.42), roughness=0.2, coat=1.0)
    shapes.lathe("vase", profile, celadon, location=(-0.14, 0.72, TOP))


def hardware() -> None:
    """A copper spring and a toothed wheel lying on the board, and a pile of toy bricks."""
    copper = materials.plain("spring copper", (0.9, 0.42, 0.2), roughness=0.2, metallic=1.0)
    turns = 6.5
    coil = []
    for step in range(int(turns * 16) + 1):
        angle = 2 * math.pi * step / 16
        coil.append(
            (
                0.34 + 0.075 * math.cos(angle),
                -0.42 + 0.075 * math.sin(angle),
                TOP + 0.012 + 0.036 * angle / (2 * math.pi),
            )
        )
    shapes.tube("spring", coil, 0.0115, copper)
    steel = materials.brushed_metal("gear steel", (0.62, 0.64, 0.68))
    teeth = 16
    corners = ((0.0, 0.145), (0.2, 0.18), (0.45, 0.18), (0.65, 0.145))
    outline = [
        (
            r * math.cos(2 * math.pi * (tooth + part) / teeth),
            r * math.sin(2 * math.pi * (tooth + part) / teeth),
        )
        for tooth in range(teeth)
        for part, r in corners
    ]
    count = len(outline)
    bore = [(0.05 * math.cos(2 * math.pi * i / count), 0.05 * math.sin(2 * math.pi * i / count)) for i in range(count)]
    vertices = [(x, y, z) for z in (0.0, 0.07) for ring in (outline, bore) for x, y in ring]
    faces = []
    for i in range(count):
        j = (i + 1) % count
        faces += [
            (2 * count + i, 2 * count + j, 3 * count + j, 3 * count + i),
            (j, i, count + i, count + j),
            (i, j, 2 * count + j, 2 * count + i),
            (count + j, count + i, 3 * count + i, 3 * count + j),
        ]
    gear = shapes.mesh("gear", vertices, faces, steel, location=(0.13, 0.82, TOP))
    gear.rotation_euler.z = 0.1
    _bricks()


def _bricks() -> None:
    """Studded bricks of translucent plastic."""
    colours = {"amber": (0.9, 0.32, 0.02), "lime": (0.36, 0.62, 0.03), "aqua": (0.03, 0.45, 0.62)}
    plastics = {name: materials.translucent_plastic(name, rgb) for name, rgb in colours.items()}
    unit, high = 0.075, 0.09
    for name, (x, y), level, turn in (
        ("amber", (-0.4, -0.74), 0, 0.5),
        ("aqua", (-0.24, -0.66), 0, -0.25),
        ("lime", (-0.325, -0.7), 1, 0.12),
    ):
        base = TOP + level * high
        shapes.box(
            "brick",
            (3 * unit, 2 * unit, high),
            plastics[name],
            location=(x, y, base + high / 2),
            turn=turn,
            bevel=0.006,
        )
        for i in (-1, 0, 1):
            for j in (-0.5, 0.5):
                offset = Vector((i * unit, j * unit, 0.0))
                offset.rotate(Matrix.Rotation(turn, 3, "Z"))
                shapes.lathe(
                    "stud",
                    [(0.024, 0.0), (0.024, 0.017), (0.02, 0.02), (1e-4, 0.02)],
                    plastics[name],
                    location=(x + offset.x, y + offset.y, base + high),
                    segments=24,
                )


def cloth() -> None:
    """A checked cloth lying over the board's edge with folds that deepen as it hangs."""
    check = materials.woven("cloth", ((0.68, 0.07, 0.06), (0.8, 0.76, 0.68)), squares=12.0)
    heading = math.radians(-25)

    def surface(u: float, v: float) -> tuple[float, float, float]:
        across, along = 0.5 * (u - 0.5), 0.5 + 0.78 * v
        overhang = max(0.0, along - (BOARD_RADIUS + 0.012))
        bend = min(overhang, 0.05)
        wave = math.sin(13.0 * across / 0.25 * 0.5 + 0.7)
        out = min(along, BOARD_RADIUS + 0.012) + 0.55 * bend + wave * 0.2 * max(0.0, overhang - 0.03)
        # Along the edge the cloth follows the board's circle; the flat part keeps its straight sides.
        angle = across / max(along, 0.9) if along > 0.9 else across / 0.9
        lift = 0.012 + 0.012 * (1.0 + math.sin(9.0 * along + 16.0 * across)) * (1.0 - min(1.0, overhang / 0.05))
        z = TOP + lift - (overhang - 0.35 * bend)
        return (out * math.cos(heading + angle), out * math.sin(heading + angle), z)

    shapes.sheet("cloth", surface, check, steps=(56, 84), thickness=0.012)


def name_plate() -> None:
    """A slate plate on the front edge, with brass letters."""
    slate = materials.plain("slate", (0.022, 0.026, 0.032), roughness=0.4)
    brass = materials.plain("letters", (0.95, 0.66, 0.25), roughness=0.25, metallic=1.0)
    back = materials.plain("plate edge", (0.5, 0.3, 0.1), roughness=0.3, metallic=1.0)
    text = shapes.lettering("VOXFIELD", height=0.19, depth=0.02, material=brass)
    text.location.z = 0.02
    parts = [
        shapes.box("plate", (0.98, 0.23, 0.03), slate, location=(0.0, 0.0, 0.0), bevel=0.008),
        shapes.box("plate frame", (1.01, 0.26, 0.02), back, location=(0.0, 0.0, -0.008), bevel=0.006),
        text,
    ]
    tilt = Matrix.Rotation(math.radians(66), 4, "X")
    shapes.place(
        parts,
        Matrix.Translation((0.06, -0.93, TOP + 0.125)) @ Matrix.Rotation(math.radians(4), 4, "Z") @ tilt,
    )


def pins() -> None:
    """Long pins with round matt heads around the edge; `PINS` holds where."""
    wire = materials.plain("pin wire", (0.7, 0.7, 0.72), roughness=0.2, metallic=1.0)
    for name, colour, centre in PINS:
        head = materials.plain(f"pin {name}", colour, roughness=1.0, specular=0.0)
        shapes.ball(f"pin {name}", PIN_RADIUS, head, location=centre)
        shapes.tube(f"pin wire {name}", [(centre[0], centre[1], TOP), centre], 0.007, wire, smooth=False)


def build() -> None:
    """Put everything on the board."""
    for part in (board, books, voxel_ball, lamp, wheel, plant, crockery, hardware, cloth, name_plate, pins):
        part()
