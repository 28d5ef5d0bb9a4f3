"""``mesh``: how well an exported mesh shows what its field was trained on: its test views, by a ray caster of our own.

The mesh is read back from the GLB file, as another program would; a ray shows the texel, between its neighbours, of the
triangle it meets first, without any shading, or white. Embree finds the triangles.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

SAMPLES = 2
"""Rays along a side of a pixel: photographs have no jagged edges either."""


def measure(run_dir: Path, *, max_images: int | None, options: dict[str, Any], keep: Path | None) -> dict[str, Any]:
    """Export the mesh of a run, and compare it with the test photographs over white.

    Args:
        run_dir: a run on photographs with alpha, or over white.
        max_images: only so many views, evenly chosen.
        options: of `voxfield.Run.export_mesh`.
        keep: folder for the mesh and its pictures; None: they are thrown away.

    Returns:
        The mesh's sizes, seconds it took, and PSNR over the views.
    """
    from measuring import describe_machine

    import voxfield
    from voxfield.render.image import write_png

    machine = describe_machine()
    run = voxfield.open(run_dir)
    captures = run.split("test")
    count = len(captures) if max_images is None else min(max_images, len(captures))
    with tempfile.TemporaryDirectory(prefix="voxfield-mesh-") as temporary:
        folder = keep or Path(temporary)
        began, processor = time.perf_counter(), time.process_time()
        done = run.export_mesh(folder / "mesh.glb", **options)
        seconds = {"wall": time.perf_counter() - began, "processor": time.process_time() - processor}
        mesh = TexturedMesh.read(done.file)
        psnr = []
        for i in np.linspace(0, len(captures) - 1, count).round().astype(int).tolist():
            seen, truth = mesh.look(captures.image_cameras, i), over_white(captures.images.read(i))
            psnr.append(float(-10 * torch.log10((seen - truth).square().mean())))
            if keep is not None:
                write_png(folder / f"{i:03d}.png", torch.cat([seen, truth], dim=1).clamp(0, 1))
    return {
        "recipe": run.experiment.recipe,
        "options": options,
        "vertices": done.vertices,
        "faces": done.faces,
        "bytes": done.bytes,
        "seconds": seconds,
        "psnr": float(np.mean(psnr)),
        "least_psnr": min(psnr),
        "num_images": count,
        "machine": machine,
    }


def over_white(picture: torch.Tensor) -> torch.Tensor:
    """(H, W, 3) float of a photograph (H, W, 3 or 4), uint8 or float, straight alpha."""
    values = picture.float() / 255 if picture.dtype == torch.uint8 else picture.float()
    return values if values.shape[2] == 3 else values[..., :3] * values[..., 3:] + 1 - values[..., 3:]


class TexturedMesh:
    """A GLB's triangles and texture."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, coordinates: np.ndarray, picture: np.ndarray) -> None:
        """As `voxfield.storage.surface_files.ColouredSurface` has them, +Z up."""
        from embreex import rtcore_scene
        from embreex.mesh_construction import TriangleMesh

        self._faces, self._coordinates = faces, coordinates
        self._picture = torch.from_numpy(picture.astype(np.float32) / 255).permute(2, 0, 1)[None]
        self._scene = rtcore_scene.EmbreeScene()
        TriangleMesh(self._scene, np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.int32))

    @classmethod
    def read(cls, path: Path) -> "TexturedMesh":
        """From a file with one texture, +Y up."""
        import trimesh

        mesh = trimesh.load(path, process=False, force="mesh")
        x, y, z = np.asarray(mesh.vertices).T
        picture = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB"))
        return cls(np.stack([x, -z, y], 1), np.asarray(mesh.faces), np.asarray(mesh.visual.uv), picture)

    def look(self, cameras: Any, i: int) -> torch.Tensor:
        """(H, W, 3) in [0, 1]: what camera ``i`` sees, before white."""
        height, width = int(cameras.height[i]), int(cameras.width[i])
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        corner = torch.stack([columns, rows], dim=-1).reshape(-1, 2).float()
        total = torch.zeros(len(corner), 3)
        for down in range(SAMPLES):
            for right in range(SAMPLES):
                pixels = corner + (torch.tensor([right, down]) + 0.5) / SAMPLES
                total += self._along(cameras.rays(torch.full((len(corner),), i), pixels))
        return (total / SAMPLES**2).view(height, width, 3)

    def _along(self, rays: Any) -> torch.Tensor:
        """Colours (R, 3) that rays meet."""
        origins, directions = (np.ascontiguousarray(some.numpy()) for some in (rays.origins, rays.directions))
        met = self._scene.run(origins, directions, output=True)
        hit = met["primID"] >= 0
        corners = self._coordinates[self._faces[met["primID"][hit]]]
        u, v = met["u"][hit, None], met["v"][hit, None]
        at = corners[:, 0] * (1 - u - v) + corners[:, 1] * u + corners[:, 2] * v
        places = torch.from_numpy(np.stack([2 * at[:, 0] - 1, 1 - 2 * at[:, 1]], 1)).float()
        colours = torch.ones(len(hit), 3)
        found = torch.nn.functional.grid_sample(
            self._picture, places[None, None], padding_mode="border", align_corners=False
        )
        colours[torch.from_numpy(hit)] = found[0, :, 0].T
        return colours
