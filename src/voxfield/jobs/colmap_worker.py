"""pycolmap in a process of its own: ``python -m voxfield.jobs.colmap_worker``. `voxfield.jobs.reconstruct` starts it.

A request comes as JSON on standard input; answers go to standard output, a JSON object a line: ``{"advance": n}`` for
every n pieces done, at the end ``{"result": ...}`` or ``{"error": "..."}``. Whatever the libraries print goes to
standard error.

Why not in the caller's process: wheels of imaging libraries bring a zlib each and the first one loaded serves them all.
With pycolmap 4.2.1 loaded before Pillow 13.0, writing a PNG ends the process ("double free"). Here neither Pillow nor
torch is loaded. Its own process can also be ended at any moment and cannot take the caller down.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

Advance = Callable[[int], None]

_PICTURES_AT_ONCE: Final = 4
_PAIRS_AT_ONCE: Final = 64
"""Between two answers, so that progress shows; a call of its own costs under 0.1 s."""

SMALLEST_MODEL: Final = 3
"""Pictures a reconstruction needs; COLMAP's own 10 is meant for large sets."""

FEWEST_POINTS: Final = 30
"""Points a placed picture must show: as many as COLMAP asks for when it places one. Fewer are left when the others
turned out wrong, and then the pose is: of 20 photographs of a paper cup one kept 25, the others 79 to 1261, and it
alone lay 50 degrees off."""

_SIMPLER: Final = {
    "PINHOLE": "SIMPLE_PINHOLE",
    "OPENCV": "SIMPLE_RADIAL",
    "OPENCV_FISHEYE": "SIMPLE_RADIAL_FISHEYE",
}
"""Lens models with one focal length, for pictures that do not tell two apart."""

_FOCAL_LENGTHS: Final = (0.1, 10.0)
_LARGEST_DISTORTION: Final = 1.0
"""What COLMAP itself takes for possible: focal lengths as shares of the longer side, and distortion coefficients. It
filters by them while it places pictures, but not after the last adjustment."""


def extract(
    advance: Advance,
    *,
    database: str,
    images: str,
    names: list[str],
    camera_model: str,
    shared: bool,
    max_size: int,
    features: int,
    threads: int = -1,
) -> dict[str, Any]:
    """SIFT features of pictures that have none yet, and a camera for every lens.

    Pictures of one size and one focal length in their EXIF share a camera, or, when not ``shared``, none do. The lists
    are imported one after another before any thread starts, so that numbers do not depend on timing.
    """
    import pycolmap

    reader = pycolmap.ImageReaderOptions(camera_model=camera_model)
    known = _names_in(database)
    if known != set(names):
        Path(database).unlink(missing_ok=True)
        pycolmap.Database.open(database).close()
        lenses: dict[Any, list[str]] = {}
        for name in names:
            camera = pycolmap.infer_camera_from_image(Path(images) / name, reader)
            lens = (camera.width, camera.height, *camera.params) if shared else name
            lenses.setdefault(lens, []).append(name)
        for group in lenses.values():
            pycolmap.import_images(database, images, pycolmap.CameraMode.SINGLE, group, reader)
    extraction = pycolmap.FeatureExtractionOptions(max_image_size=max_size, use_gpu=False)
    extraction.sift.max_num_features = features
    extraction.num_threads = threads
    for first in range(0, len(names), _PICTURES_AT_ONCE):
        some = names[first : first + _PICTURES_AT_ONCE]
        pycolmap.extract_features(
            database,
            images,
            some,
            reader_options=reader,
            extraction_options=extraction,
            device=pycolmap.Device.cpu,
        )
        advance(len(some))
    opened = pycolmap.Database.open(database)
    try:
        cameras = opened.read_all_cameras()
        counts = {image.name: opened.num_keypoints_for_image(image.image_id) for image in opened.read_all_images()}
    finally:
        opened.close()
    return {
        "features": counts,
        "cameras": len(cameras),
        "focal_from_exif": any(camera.has_prior_focal_length for camera in cameras),
    }


def match(
    advance: Advance, *, database: str, pairs: list[tuple[str, str]], pairs_file: str, seed: int, fresh: bool
) -> dict[str, Any]:
    """Match pairs of pictures and verify them by two-view geometry; pairs in the database are not done again.

    Args:
        advance: told of every pair.
        database: with features.
        pairs: names of pictures.
        pairs_file: where pycolmap's list of pairs may be written.
        seed: of the geometry's RANSAC.
        fresh: forget the matches there are.
    """
    import pycolmap

    if fresh:
        opened = pycolmap.Database.open(database)
        opened.clear_matches()
        opened.clear_two_view_geometries()
        opened.close()
    pycolmap.set_random_seed(seed)
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = seed
    for first in range(0, len(pairs), _PAIRS_AT_ONCE):
        some = pairs[first : first + _PAIRS_AT_ONCE]
        Path(pairs_file).write_text("".join(f"{one} {other}\n" for one, other in some), encoding="utf-8")
        pycolmap.match_image_pairs(
            database,
            pycolmap.FeatureMatchingOptions(use_gpu=False),
            pycolmap.ImportedPairingOptions(match_list_path=pairs_file),
            verification,
            device=pycolmap.Device.cpu,
        )
        advance(len(some))
    Path(pairs_file).unlink(missing_ok=True)
    opened = pycolmap.Database.open(database)
    try:
        # A pair that was looked at is in the table also when nothing came of it.
        _, inliers = opened.read_two_view_geometry_num_inliers()
        return {"pairs": len(pairs), "verified_pairs": sum(count > 0 for count in inliers)}
    finally:
        opened.close()


def reconstruct(advance: Advance, *, database: str, images: str, models: str, seed: int) -> dict[str, Any]:
    """Incremental structure from motion; every model is written to a numbered folder below ``models``.

    Pictures that show fewer than `FEWEST_POINTS` of its points are taken out of a model, and models of fewer than
    `SMALLEST_MODEL` pictures are left out. One thread works: with more, pycolmap 4.2.1 gave a model of 6 or of all 8
    pictures of the same matches and seed from one run to the next. Features and matches are the same with any number.

    Where the lenses of all models come out impossible, the pictures do not tell their parameters apart, and the poses
    are as wrong as the lenses: everything is done once more with a lens of one focal length. Of eight small frames of
    a video ``OPENCV`` gave focal lengths of 0.6 and 786 pixels and cameras a quarter of their extent off, at a
    reprojection error of 0.2 pixels; ``SIMPLE_RADIAL`` gave 297, where 300 was right.

    Returns:
        ``models``: folder, registered pictures, points, mean reprojection error in pixels, cameras; the one with the
        most pictures first. ``impossible_lenses``: how many models were left out for theirs.
    """
    kept, left_out = _mapped(advance, database, images, models, seed)
    if left_out and not kept:
        with tempfile.TemporaryDirectory(dir=models) as folder:
            simple = str(Path(folder) / "simple.db")
            if _simplify_lenses(database, simple):
                kept, still = _mapped(advance, simple, images, models, seed)
                left_out += still
    for index, model in kept.items():
        model.write(Path(models) / str(index))
    described = [
        {
            "folder": str(index),
            "registered": sorted(model.image(number).name for number in model.reg_image_ids()),
            "points": model.num_points3D(),
            "reprojection_error": model.compute_mean_reprojection_error(),
            "cameras": [
                {"model": camera.model.name, "size": [camera.width, camera.height], "parameters": list(camera.params)}
                for camera in model.cameras.values()
            ],
        }
        for index, model in kept.items()
    ]
    described.sort(key=lambda model: (-len(model["registered"]), -model["points"]))
    return {"models": described, "impossible_lenses": left_out}


def _mapped(advance: Advance, database: str, images: str, models: str, seed: int) -> tuple[dict[int, Any], int]:
    """Models by number, without weak pictures and impossible lenses; and how many were left out for their lenses."""
    import pycolmap

    pycolmap.set_random_seed(seed)
    options = pycolmap.IncrementalPipelineOptions(
        random_seed=seed, num_threads=1, min_model_size=SMALLEST_MODEL, ba_use_gpu=False
    )
    found = pycolmap.incremental_mapping(
        database,
        images,
        models,
        options,
        initial_image_pair_callback=lambda: advance(2),
        next_image_callback=lambda: advance(1),
    )
    for model in found.values():
        _take_out_weak(model)
    large = {index: model for index, model in found.items() if model.num_reg_images() >= SMALLEST_MODEL}
    kept = {index: model for index, model in large.items() if not _has_impossible_lens(model)}
    return kept, len(large) - len(kept)


def _has_impossible_lens(model: Any) -> bool:
    used = {model.image(number).camera_id for number in model.reg_image_ids()}
    return any(model.camera(number).has_bogus_params(*_FOCAL_LENGTHS, _LARGEST_DISTORTION) for number in used)


def _simplify_lenses(database: str, copy: str) -> bool:
    """Copy the database, its cameras with simpler lens models; whether there was one to simplify."""
    import pycolmap

    shutil.copyfile(database, copy)
    opened = pycolmap.Database.open(copy)
    try:
        changed = False
        for camera in opened.read_all_cameras():
            simpler = _SIMPLER.get(camera.model.name)
            if simpler is not None:
                other = pycolmap.Camera.create_from_model_name(
                    camera.camera_id, simpler, camera.mean_focal_length(), camera.width, camera.height
                )
                other.has_prior_focal_length = camera.has_prior_focal_length
                opened.update_camera(other)
                changed = True
    finally:
        opened.close()
    return changed


COMMANDS: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    "extract": extract,
    "match": match,
    "reconstruct": reconstruct,
}


def _take_out_weak(model: Any) -> None:
    """Take pictures that show too few points out of a model, until all that are left show enough."""
    while True:
        images = [model.image(number) for number in model.reg_image_ids()]
        weak = [image.frame_id for image in images if image.num_points3D < FEWEST_POINTS]
        if not weak:
            return
        for frame in weak:
            model.deregister_frame(frame)


def _names_in(database: str) -> set[str]:
    """Pictures the database knows; none where it is absent or cannot be read."""
    import pycolmap

    if not Path(database).is_file():
        return set()
    try:
        opened = pycolmap.Database.open(database)
    except (RuntimeError, ValueError):
        return set()
    try:
        return {image.name for image in opened.read_all_images()}
    finally:
        opened.close()


def main() -> int:
    """Serve one request."""
    # Ctrl-C reaches this process too; its parent decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)

        def answer(**values: Any) -> None:
            answers.write(json.dumps(values) + "\n")
            answers.flush()

        request = json.load(sys.stdin)
        try:
            answer(result=COMMANDS[request.pop("command")](lambda count: answer(advance=count), **request))
        except (RuntimeError, ValueError, OSError, IndexError) as error:
            answer(error=" ".join(str(error).split())[:300])
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
