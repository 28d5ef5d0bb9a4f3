"""Meshes the workbench scene is built from: lathes, tubes, boxes, cloth, leaves, lettering.

Runs inside Blender's ``bpy``. Every shape function links one new object into the scene and returns it. World axes:
right-handed, +Z up; lengths in world units; angles in radians.
"""

import math
from collections.abc import Callable, Sequence

import bpy
from mathutils import Matrix, Vector

Point = tuple[float, float, float]


def mesh(
    name: str,
    vertices: Sequence[Point],
    faces: Sequence[Sequence[int]],
    material: bpy.types.Material,
    *,
    location: Point = (0.0, 0.0, 0.0),
    smooth: bool = True,
) -> bpy.types.Object:
    """A polygon mesh; with `smooth`, normals are shared except across edges sharper than 35 degrees."""
    data = bpy.data.meshes.new(name)
    data.from_pydata([tuple(v) for v in vertices], [], [tuple(f) for f in faces])
    data.validate()
    data.materials.append(material)
    if smooth:
        data.shade_smooth()
        data.set_sharp_from_angle(angle=math.radians(35.0))
    item = bpy.data.objects.new(name, data)
    item.location = location
    bpy.context.scene.collection.objects.link(item)
    return item


def lathe(
    name: str,
    profile: Sequence[tuple[float, float]],
    material: bpy.types.Material,
    *,
    location: Point = (0, 0, 0),
    segments: int = 72,
    closed: bool = False,
) -> bpy.types.Object:
    """Turn `profile`, points (radius, z), about the z axis. `closed` joins the last point to the first."""
    vertices = [
        (r * math.cos(2 * math.pi * s / segments), r * math.sin(2 * math.pi * s / segments), z)
        for r, z in profile
        for s in range(segments)
    ]
    rows = len(profile) if closed else len(profile) - 1
    faces = []
    for row in range(rows):
        following = (row + 1) % len(profile)
        for s in range(segments):
            t = (s + 1) % segments
            faces.append((row * segments + s, row * segments + t, following * segments + t, following * segments + s))
    item = mesh(name, vertices, faces, material, location=location)
    return item


def torus(
    name: str, radius: float, tube: float, material: bpy.types.Material, *, squash: float = 1.0
) -> bpy.types.Object:
    """A ring about the z axis; `squash` scales the tube's extent along z."""
    profile = [
        (radius + tube * math.cos(a), squash * tube * math.sin(a)) for a in (2 * math.pi * i / 18 for i in range(18))
    ]
    return lathe(name, profile, material, closed=True)


def ball(name: str, radius: float, material: bpy.types.Material, *, location: Point) -> bpy.types.Object:
    """A sphere about `location`."""
    profile = [(max(radius * math.sin(a), 1e-5), -radius * math.cos(a)) for a in (math.pi * i / 32 for i in range(33))]
    return lathe(name, profile, material, location=location, segments=48)


def tube(
    name: str,
    points: Sequence[Point],
    radius: float,
    material: bpy.types.Material,
    *,
    smooth: bool = True,
) -> bpy.types.Object:
    """A round wire through `points`: a spline when `smooth`, else straight pieces."""
    curve = bpy.data.curves.new(name, "CURVE")
    curve.dimensions = "3D"
    curve.bevel_depth = radius
    curve.bevel_resolution = 3
    curve.use_fill_caps = True
    spline = curve.splines.new("NURBS" if smooth else "POLY")
    spline.points.add(len(points) - 1)
    for target, point in zip(spline.points, points, strict=True):
        target.co = (*point, 1.0)
    if smooth:
        spline.order_u = 3
        spline.use_endpoint_u = True
        spline.resolution_u = 6
    curve.materials.append(material)
    item = bpy.data.objects.new(name, curve)
    bpy.context.scene.collection.objects.link(item)
    return item


def box(
    name: str,
    size: Point,
    material: bpy.types.Material,
    *,
    location: Point,
    turn: float = 0.0,
    bevel: float = 0.01,
) -> bpy.types.Object:
    """A box with rounded edges, centred on `location`, turned about z."""
    x, y, z = (s / 2 for s in size)
    corners = [(i, j, k) for k in (-z, z) for j in (-y, y) for i in (-x, x)]
    faces = [(0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5)]
    item = mesh(name, corners, faces, material, location=location, smooth=False)
    item.rotation_euler.z = turn
    if bevel > 0.0:
        modifier = item.modifiers.new("round", "BEVEL")
        modifier.width = bevel
        modifier.segments = 2
        modifier.harden_normals = True
    return item


def sheet(
    name: str,
    surface: Callable[[float, float], Point],
    material: bpy.types.Material,
    *,
    steps: tuple[int, int],
    thickness: float,
) -> bpy.types.Object:
    """A thin surface given as `surface(u, v)` over the unit square, with UVs and `thickness` in world units."""
    columns, rows = steps
    vertices = [surface(i / columns, j / rows) for j in range(rows + 1) for i in range(columns + 1)]
    width = columns + 1
    faces = [
        (j * width + i, j * width + i + 1, (j + 1) * width + i + 1, (j + 1) * width + i)
        for j in range(rows)
        for i in range(columns)
    ]
    item = mesh(name, vertices, faces, material)
    layer = item.data.uv_layers.new(name="uv")
    for loop in item.data.loops:
        j, i = divmod(loop.vertex_index, width)
        layer.data[loop.index].uv = (i / columns, j / rows)
    solid = item.modifiers.new("thickness", "SOLIDIFY")
    solid.thickness = thickness
    solid.offset = 0.0
    return item


def lettering(text: str, *, height: float, depth: float, material: bpy.types.Material) -> bpy.types.Object:
    """Raised letters centred on the origin in the xy plane, readable from +z, in Blender's built-in face."""
    curve = bpy.data.curves.new(text, "FONT")
    curve.body = text
    curve.size = height
    curve.extrude = depth / 2
    curve.bevel_depth = 0.003
    curve.offset = 0.003
    curve.space_character = 1.12
    curve.align_x = curve.align_y = "CENTER"
    curve.materials.append(material)
    item = bpy.data.objects.new(text, curve)
    bpy.context.scene.collection.objects.link(item)
    return item


def place(items: Sequence[bpy.types.Object], matrix: Matrix) -> None:
    """Move finished parts together: each object's transform becomes `matrix` times its own."""
    bpy.context.view_layer.update()
    for item in items:
        item.matrix_world = matrix @ item.matrix_world


def look_from(position: Point, target: Point) -> Matrix:
    """Rigid matrix of a thing at `position` whose -Z axis points at `target`, +Y upwards."""
    back = (Vector(position) - Vector(target)).normalized()
    right = Vector((0.0, 0.0, 1.0)).cross(back)
    right = right.normalized() if right.length > 1e-6 else Vector((1.0, 0.0, 0.0))
    up = back.cross(right)
    return Matrix(
        (
            (right.x, up.x, back.x, position[0]),
            (right.y, up.y, back.y, position[1]),
            (right.z, up.z, back.z, position[2]),
            (0.0, 0.0, 0.0, 1.0),
        )
    )
