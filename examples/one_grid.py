"""One grid from end to end: three ways round, and what every step of them loses.

    python examples/one_grid.py
    python examples/one_grid.py --capture path/to/capture --meshes path/to/meshes --points path/to/clouds --minutes 10

    shapes   mesh -> voxel dataset -> traced rays -> raynet -> pictures beside the truth
    photos   photographs -> grid-ngp -> baked voxels -> OpenVDB, levels, neural compression -> unpacked, rendered again;
             -> viewer, Blender, mesh -> voxels again
    points   points -> pre-rendered voxels -> diffusion -> samples -> OpenVDB -> mesh -> voxels again

Without data the photographs are those of the scene in this repository, and shapes are made here. The defaults take some
minutes on two cores and show that all of it fits together; more minutes make better fields and better shapes. It needs
the extras viewer (left out without it) and diffusion.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

import voxfield
from voxfield.errors import InputError, MissingExtraError

SCENE = Path(__file__).parent / "scenes" / "workbench"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a person waits for."""

    minutes: float = 1.0
    """Of each training."""
    steps: int | None = None
    """Of each training instead."""
    resolution: int = 64
    """Voxels along the sides of shapes in the dataset."""
    baked: int = 128
    """Voxels along the longest side of the baked field."""
    bake_steps: int = 600
    network_steps: int = 150
    """Updates of the networks that compress."""
    pictures: int = 4
    """Held-out photographs that are measured."""
    side: int = 32
    """Voxels along the sides of generated volumes."""
    settings: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Further settings of recipes."""

    def limits(self, recipe: str) -> dict[str, Any]:
        """Arguments of `voxfield.train`."""
        limit: dict[str, Any] = {"minutes": self.minutes} if self.steps is None else {"steps": self.steps}
        return {**limit, "overrides": dict(self.settings).get(recipe, ()), "quiet": True}


class Table:
    """What was measured, printed as it is."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str, float]] = []

    def add(self, part: str, step: str, **measures: float | None) -> None:
        """Print a line for every measure that there is."""
        for name, value in measures.items():
            if value is not None:
                self.rows.append((part, step, name, float(value)))
                print(f"{part:7} {step:42} {name.replace('_', ' '):24} {value:10.4g}", flush=True)

    def value(self, step: str, name: str) -> float:
        """One of them."""
        return next(value for _, at, what, value in self.rows if (at, what) == (step, name))


def made_meshes(folder: Path, count: int = 12, seed: int = 0) -> Path:
    """Bodies of several kinds and proportions, as files."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        a, b, c = random.uniform(0.3, 1.0, 3)
        kind = ("torus", "box", "capsule", "annulus", "cone", "ellipsoid")[number % 6]
        if kind == "torus":
            body = trimesh.creation.torus(1.0, 0.2 + 0.3 * a)
        elif kind == "box":
            body = trimesh.creation.box((a, b, c))
        elif kind == "capsule":
            body = trimesh.creation.capsule(height=2 * a, radius=0.5 * b)
        elif kind == "annulus":
            body = trimesh.creation.annulus(0.4 * a, 1.0, 0.3 + b)
        elif kind == "cone":
            body = trimesh.creation.cone(radius=a, height=2 * b)
        else:
            body = trimesh.creation.icosphere(subdivisions=3).apply_scale((a, b, c))
        body.apply_transform(trimesh.transformations.random_rotation_matrix(random.random(3)))
        body.export(folder / f"body_{number:02d}.ply")
    return folder


def made_points(file: Path, meshes: Path, copies: int = 8, points: int = 4096, seed: int = 0) -> Path:
    """Clouds on the surfaces of meshes, turned at random about z: an array (N, M, 3)."""
    clouds = []
    for number, path in enumerate(sorted(meshes.glob("*.ply"))):
        for copy in range(copies):
            found, _ = trimesh.sample.sample_surface(
                trimesh.load_mesh(path), points, seed=seed + copies * number + copy
            )
            angle = 2 * np.pi * copy / copies
            turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
            clouds.append(found @ turn.T)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, np.stack(clouds).astype(np.float32))
    return file


def shapes(home: Path, meshes: Path, sizes: Sizes, table: Table) -> voxfield.ShapeRun:
    """Mesh -> voxel dataset -> traced rays -> raynet -> pictures beside the truth."""
    built = voxfield.build_shapes(
        meshes, home / "dataset", resolution=sizes.resolution, min_resolution=sizes.resolution // 4, quiet=True
    )
    voxfield.split_shapes(built.output, train=0.75, val=0.25)
    table.add("shapes", "meshes to voxel dataset", objects=built.objects, failures=len(built.failures))
    checked = voxfield.verify_shapes(built.output, quiet=True)
    table.add("shapes", "dataset taken apart and put together", faults=len(checked.faults))

    failed = {Path(item.path).name for item in built.failures}
    found = [path for path in meshes.rglob("*.*") if path.suffix in {".ply", ".obj"} and path.name not in failed]
    coarse, fine = home / "shape.vdb", home / "shape-fine.vdb"
    for mesh in sorted(found):
        try:
            voxfield.voxelise_mesh(mesh, coarse, resolution=sizes.resolution, coverage="solid")
            voxfield.voxelise_mesh(mesh, fine, resolution=2 * sizes.resolution, coverage="solid")
        except InputError:
            continue  # it encloses nothing
        table.add("shapes", "voxels against twice as many", iou=voxfield.compare_volumes(fine, coarse).iou)
        break

    # Where raynet looks for the rays of a dataset.
    rays = home / "ray_dataset_hierarchical"
    traced = voxfield.trace_shapes(built.output, rays, min_level=2, samples_per_view=300, layout="packed", quiet=True)
    table.add("shapes", "blocks traced", failures=len(traced.failures))
    run = voxfield.train("raynet", built.output, output=home / "raynet", **sizes.limits("raynet"))
    measured = run.evaluate(split="val", quiet=True)
    for name in ("seen", "unseen"):
        if measured[name] is not None:
            table.add(
                "shapes",
                f"raynet, {name} blocks",
                **{key: measured[name][key] for key in ("hit_f1", "depth_mae", "chord_mae")},
            )
    for picture in run.render_shapes(split="val", size=128, quiet=True):
        print("wrote", picture)
    return run


def photos(home: Path, capture: Path, sizes: Sizes, table: Table) -> voxfield.Run:
    """Photographs -> grid-ngp -> voxels -> OpenVDB and back; and to the viewer, to Blender, to a mesh and back."""

    def measured(run: voxfield.Run, step: str) -> float:
        psnr = run.evaluate(max_images=sizes.pictures, quiet=True)["psnr"]
        table.add("photos", step, psnr=psnr)
        return psnr

    field = voxfield.train("grid-ngp", capture, output=home / "grid-ngp", **sizes.limits("grid-ngp"))
    measured(field, "grid-ngp")
    baked = voxfield.bake(
        field,
        home / "baked",
        resolution=sizes.baked,
        sh_degree=1,
        steps=sizes.bake_steps,
        max_images=sizes.pictures,
        overrides=dict(sizes.settings).get("plenoxels", ()),
        quiet=True,
    )
    table.add("photos", "sampled on voxels", psnr=baked.sampled_psnr)
    run = baked.run
    measured(run, "baked")

    grid = run.export_vdb(home / "field.vdb").file
    measured(run.with_volume(grid), "OpenVDB")
    light = voxfield.optimise_volume(grid, home / "field-half.vdb", half=True)
    table.add("photos", "OpenVDB, 16 bits, thinned", times_smaller=light.bytes_before / light.bytes_after)
    measured(run.with_volume(light.file), "OpenVDB, 16 bits, thinned")
    for number, level in enumerate(voxfield.make_levels(grid, home / "levels", levels=3)):
        difference = voxfield.compare_volumes(grid, level)
        table.add("photos", f"level {number}", iou=difference.iou)
        measured(run.with_volume(level), f"level {number}")

    packed, unpacked = home / "field.vxv", home / "field-unpacked.vdb"
    config = voxfield.CompressionConfig(codec="neural", relative_error=0.01, steps=sizes.network_steps)
    voxfield.compress_volume(grid, packed, config)
    voxfield.decompress_volume(packed, unpacked)
    step = "neural VDB, unpacked"
    table.add(
        "photos",
        step,
        times_smaller=grid.stat().st_size / packed.stat().st_size,
        rmse=voxfield.compare_volumes(grid, unpacked).rmse,
    )
    again = run.with_volume(unpacked)
    measured(again, step)
    for picture in again.render_path("orbit", frames=2, width=256, format="images", quiet=True):
        print("wrote", picture)

    surface = voxfield.mesh_volume(unpacked, home / "field.ply").file
    voxfield.voxelise_mesh(surface, home / "field-again.vdb", resolution=sizes.baked, coverage="solid")
    table.add("photos", "mesh, voxels again", iou=voxfield.compare_volumes(unpacked, home / "field-again.vdb").iou)
    built = voxfield.build_shapes(surface, home / "field-dataset", resolution=sizes.resolution, quiet=True)
    table.add("photos", "mesh as an object of a dataset", objects=built.objects)

    script = voxfield.export_blender(run, home / "blender.py", frames=24, quiet=True)
    print(f"wrote {script.script}: blender --python {script.script}")
    try:
        with voxfield.view(unpacked, port=0, quiet=True) as viewer:
            print("shown at", viewer.url)
    except MissingExtraError as error:
        print("not shown:", error)
    return run


def points(home: Path, clouds: Path, sizes: Sizes, table: Table) -> list[Path]:
    """Points -> pre-rendered voxels -> diffusion -> samples -> OpenVDB -> mesh -> voxels again."""
    rendered = voxfield.prerender(
        clouds, home / "prerendered", voxel_size=sizes.side, sigma=0.8, threshold=0.1, quiet=True
    )
    table.add("points", "clouds to voxels", samples=rendered.samples, failures=len(rendered.failures))
    run = voxfield.train("diffusion", rendered.output, output=home / "diffusion", **sizes.limits("diffusion"))
    drawn = run.sample(
        home / "samples",
        8,
        steps=20,
        threshold=0.3,
        formats=("hdf5", "sheet", "vdb"),
        reference=rendered.output,
        quiet=True,
    )
    for name, shown in (("generated", "samples"), ("baselines", "mean shape, for comparison")):
        found = drawn["metrics"][name]
        found = found if name == "generated" else found["mean_shape"]
        table.add("points", shown, chamfer_to_nearest=found["mmd"], one_nn_accuracy=found["one_nn_accuracy"])
    surfaces = []
    for file in (path for path in drawn["files"] if path.suffix == ".vdb"):
        surface = voxfield.mesh_volume(file, file.with_suffix(".ply"), level=0.3).file
        again = file.with_name(f"{file.stem}-again.vdb")
        voxfield.voxelise_mesh(surface, again, resolution=2 * sizes.side, coverage="solid")
        surfaces.append(surface)
    found = [voxfield.compare_volumes(file.with_suffix(".vdb"), file.with_name(f"{file.stem}-again.vdb"), level=0.3)
             for file in surfaces]  # fmt: skip
    table.add("points", "mesh, voxels again", iou=float(np.mean([one.iou for one in found])))
    print("wrote", home / "samples" / "contact_sheet.png")
    return surfaces


PARTS = ("shapes", "photos", "points")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--output", type=Path, default=Path("runs/one-grid"), help="a new folder")
    options.add_argument("--capture", type=Path, default=SCENE, help="photographs, of any layout that voxfield reads")
    options.add_argument("--meshes", type=Path, help="a folder of meshes; made here if absent")
    options.add_argument("--points", type=Path, help="point clouds; made here if absent")
    options.add_argument("--minutes", type=float, default=1.0, help="of each of the three trainings")
    options.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    given = options.parse_args()
    table, sizes, home = Table(), Sizes(minutes=given.minutes), given.output
    meshes = given.meshes or made_meshes(home / "meshes")
    if "shapes" in given.parts:
        shapes(home / "shapes", meshes, sizes, table)
    if "photos" in given.parts:
        photos(home / "photos", given.capture, sizes, table)
    if "points" in given.parts:
        clouds = given.points or made_points(home / "points" / "clouds.npy", made_meshes(home / "meshes"))
        points(home / "points", clouds, sizes, table)
    print(f"\nAll of it is in {home}. To look around: voxfield view {home}/photos/baked")


if __name__ == "__main__":
    main()
