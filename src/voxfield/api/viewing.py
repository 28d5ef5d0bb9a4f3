"""Looking at runs, scenes and files in a browser."""

import os
import threading
from pathlib import Path

import torch

from voxfield.api.places import anywhere
from voxfield.api.runs import Run
from voxfield.api.scenes import Scene
from voxfield.data.scene_file import is_scene
from voxfield.kernels.threads import kernels_own_the_cores
from voxfield.render.image import colour_from_name
from voxfield.training.experiment import EXPERIMENT_NAME
from voxfield.training.progress import Progress
from voxfield.viewer.access import PORT
from voxfield.viewer.exhibits import open_exhibit
from voxfield.viewer.level_subjects import open_volume
from voxfield.viewer.photographs import Photographs
from voxfield.viewer.serving import require_viser
from voxfield.viewer.showcase import Showcase
from voxfield.viewer.viewer import Viewer
from voxfield.viewer.volume_subject import load_kernels


@anywhere("path")
def view(
    path: str | os.PathLike[str],
    *,
    host: str | None = None,
    port: int = PORT,
    device: str = "auto",
    quiet: bool = False,
) -> Viewer | Showcase:
    """Show a run, a scene, a volume, a mesh or points in a browser.

    Args:
        path: run directory, or a scene's ``.json`` file; or an OpenVDB file or a compressed volume, whose fog or level
            set is marched through; or a folder or file of its levels of detail (`make_levels`), which are loaded as
            they are needed; or a voxel dataset, pre-rendered voxels, a ``.npy`` volume or points, HDF5 volumes, a mesh,
            a point cloud (PLY, PCD, LAS, LAZ, NPZ or text), or a folder of such files and of volumes, which the browser
            draws by itself.
        host: name or address of this machine's on which to listen; the URL then holds a secret that whoever looks
            needs. None: only this machine can look.
        port: 1 to 65535; 0: any that is free.
        device: ``auto``, or a torch device.
        quiet: no progress bar.

    Returns:
        The viewer, which serves ``viewer.url`` until ``viewer.close()`` or the end of a ``with`` statement;
        ``viewer.wait()`` returns only then.

    Raises:
        MissingExtraError: viser is not installed. UnavailableError: the port is in use.
        InputError: no such host, or a run that learnt from no photographs. MissingFileError, FormatError: the run or
            the file cannot be read.
    """
    require_viser()
    if is_scene(path):
        return _view_scene(Scene(path, device=device), host=host, port=port, quiet=quiet)
    if not (Path(path) / EXPERIMENT_NAME).is_file():
        return _view_file(Path(path), host, port)
    run = Run(Path(path), device=device)
    subject = run.subject()
    with Progress(quiet=quiet) as progress:
        run.compile_for_rendering(progress)
    viewer = Viewer(
        subject,
        name=run.path.resolve().name,
        photographs=Photographs(run.captures),
        paths=run.path / "camera_paths",
        background=torch.tensor(colour_from_name(run.experiment.evaluation.background)),
        host=host,
        port=port,
    )
    viewer.start()
    return viewer


def _view_scene(scene: Scene, *, host: str | None, port: int, quiet: bool) -> Viewer:
    subject = scene.subject()
    with Progress(quiet=quiet) as progress:
        scene.compile_for_rendering(progress)
    viewer = Viewer(
        subject,
        name=scene.path.stem,
        paths=scene.path.parent / "camera_paths",
        background=scene.background,
        host=host,
        port=port,
    )
    viewer.start()
    return viewer


def _view_file(path: Path, host: str | None, port: int) -> Viewer | Showcase:
    """Volumes with matter to march through are painted here; all else the browser draws by itself."""
    name = path.resolve().name
    if path.suffix.lower() == ".vdb" and path.is_file():
        # While the file is read: each takes about a second.
        threading.Thread(target=load_kernels, name="voxfield-kernels", daemon=True).start()
    with kernels_own_the_cores():
        subject = open_volume(path) if path.exists() else None
    if subject is None:
        return Showcase(open_exhibit(path), name=name, host=host, port=port)
    viewer = Viewer(subject, name=name, host=host, port=port)
    viewer.start()
    return viewer
