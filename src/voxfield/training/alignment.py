"""Moving an evaluation camera to where the trained field explains its photograph best.

A photograph whose pose is off by a pixel scores badly however good the field is, and a run that refined its training
poses moved the scene away from the poses of the others. So the camera is moved: first with the training cameras, by
the similarity their poses drifted by, then by gradient descent on the colours of random pixels through the frozen
field, as in iNeRF (Yen-Chen et al. 2021, https://arxiv.org/abs/2012.05877), NeRF-- and BARF. Those fit the whole
picture and are scored on it. Here the pixels that are fitted are half of the picture, every other tile of a
checkerboard, so that the other half says whether the pose got better or merely the fit.

The six numbers of a correction are kept in pixels of image motion: a translation that moves the middle of what is
seen by one pixel and a rotation that does count alike, whatever the units of the world.

Coarse to fine: the truth is blurred at first. Blurring one of two pictures blurs their correlation as blurring both
would, so the way to the right pose leads downhill from further away, and the best pose stays where it is.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch

from voxfield.checks import check_choice, check_range
from voxfield.geometry.camera import Cameras
from voxfield.geometry.pose import SceneTransform
from voxfield.geometry.pose_refinement import PoseManifold, PoseRefinement, PoseRefinementConfig, rotate
from voxfield.geometry.rays import Rays
from voxfield.kernels.adam import AdamRule, adam_step
from voxfield.render.focus import blurred

TILES_ACROSS = 16
"""Tiles of the checkerboard along the longer side of a picture."""

BLURS = (4.0, 2.0, 0.0)
"""Standard deviations of the truth's blur, pixels, in equal parts of the steps."""

HUBER_DELTA = 0.1
"""Error above which the loss grows linearly, so that what only the photograph shows does not pull the pose."""

_CHECK_RAYS = 4096
"""Pixels that decide whether the pose found explains the picture better than the one given."""

_MOTION_RAYS = 1024

ColoursWithGradient = Callable[..., torch.Tensor]
"""``colours(rays, *, background)`` -> (R, 3), differentiable with respect to the rays' origins and directions; see
`voxfield.models.base.Model.colours_with_gradient`."""


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """How evaluation cameras are aligned."""

    manifold: PoseManifold = "SO3xR3"
    """Translation as it is, or as part of a rigid motion; see `voxfield.geometry.pose_refinement`."""
    steps: int = 100
    """Steps of gradient descent on one picture, 1 to 10000."""
    rays: int = 512
    """Random pixels of a step, 1 to 1048576."""
    first_step: float = 0.5
    """Length of the first step in each of the six numbers, pixels of image motion, above 0."""
    last_step: float = 0.01
    """The same of the last step; in between it falls geometrically."""

    def __post_init__(self) -> None:
        check_choice("manifold", self.manifold, ("SO3xR3", "SE3"))
        check_range("steps", self.steps, minimum=1, maximum=10_000)
        check_range("rays", self.rays, minimum=1, maximum=1 << 20)
        check_range("first_step", self.first_step, above=0.0, maximum=100.0)
        check_range("last_step", self.last_step, above=0.0, maximum=self.first_step)


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Where a camera was moved to."""

    camera: Cameras
    """The one camera, moved; as it came where no better pose was found."""
    moved: bool
    """Whether one was."""
    unseen: torch.Tensor
    """(H, W) bool: the pixels that the alignment did not see and a mask does not hide."""
    degrees: float
    """Angle between the two poses' axes."""
    distance: float
    """Between the two centres, world units."""
    pixels: float
    """Median motion of what the picture shows, pixels."""


class PoseAligner:
    """Aligns cameras one at a time to a frozen field."""

    def __init__(
        self,
        colours: ColoursWithGradient,
        *,
        settings: AlignmentConfig | None = None,
        drift: SceneTransform | None = None,
        parameters: Iterable[torch.nn.Parameter] = (),
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        """Prepare; nothing is computed yet.

        Args:
            colours: the field.
            settings: the defaults when absent.
            drift: what moved the training cameras as a group; none when absent.
            parameters: what is frozen while a camera is moved, so that no gradients of it are computed.
            device: where ``colours`` wants its rays.
            seed: of the choice of pixels; the same for every picture.
        """
        self.settings = settings or AlignmentConfig()
        self.drift = drift or SceneTransform.identity()
        self._colours, self._parameters = colours, list(parameters)
        self._device, self._seed = device, seed

    def align(
        self,
        cameras: Cameras,
        i: int,
        truth: torch.Tensor,
        *,
        depth: torch.Tensor,
        opacity: torch.Tensor,
        background: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> Alignment | None:
        """Move camera ``i`` to where the field explains ``truth``.

        Args:
            cameras, i: the camera with the pose it came with.
            truth: (H, W, 3) over ``background``, in the space of ``colours``.
            depth: (H, W) distances along the rays of the pose it came with, world units; scales the steps.
            opacity: (H, W) in [0, 1]: where it is below one half ``depth`` means nothing.
            background: (3,) colour behind the field.
            mask: (H, W) bool, the pixels that count.

        Returns:
            The camera moved; None where the mask leaves one half of the picture empty.
        """
        height, width = truth.shape[:2]
        seen, deciding = _checkerboard(height, width)
        unseen = ~seen
        if mask is not None:
            seen, unseen = seen & mask, unseen & mask
        chosen = seen.flatten().nonzero()[:, 0]
        if not len(chosen) or not bool(unseen.any()):
            return None
        given = cameras[i]
        start = replace(given, camera_to_world=self.drift.apply_poses(given.camera_to_world))
        fitted, decided = ((seen & part).flatten().nonzero()[:, 0] for part in (~deciding, deciding))
        if not len(fitted) or not len(decided):
            fitted = decided = chosen
        picture = _Picture(chosen=fitted, width=width, truth=truth, mask=mask)
        generator = torch.Generator().manual_seed(self._seed)
        # Tiles of their own: of a small picture or a blurred field a pose may please the pixels it was fitted to only.
        checked = _Picture(chosen=decided, width=width, truth=truth, mask=mask).draw(_CHECK_RAYS, generator)
        scale = _pixel_units(given, chosen, depth, opacity, width)
        with _frozen(self._parameters):
            moved = self._descend(start, picture, scale, background, generator)
            candidates = (given, start, moved)
            errors = [self._errors_of(camera, checked, background) for camera in candidates]
        # A pose has to gain more than chance. What is reported knows no fitted exposure: it must not cost there either.
        block = (checked[0] // (2 * _tile_side(height, width))).long()
        block = block[:, 1] * TILES_ACROSS + block[:, 0]
        best, least = given, errors[0]
        for camera, found in zip(candidates[1:], errors[1:], strict=True):
            cheaper = bool(found.plain.mean() <= errors[0].plain.mean())
            if cheaper and _is_gain(least.exposed - found.exposed, block):
                best, least = camera, found
        return Alignment(
            camera=best, moved=best is not given, unseen=unseen, **_difference(given, best, depth, opacity, mask)
        )

    def protocol(self) -> dict[str, Any]:
        """What a reader of aligned metrics must know."""
        return {
            **asdict(self.settings),
            "fitted": f"two thirds of every other tile of a checkerboard, {TILES_ACROSS} across the longer side; the "
            "rest of those decides whether the pose found is taken",
            "scored": "all pixels; psnr_unseen and psnr_unseen_aligned the tiles that were not fitted",
            "truth_blur": list(BLURS),
            "drift": self.drift.matrix.tolist(),
            "seed": self._seed,
        }

    def _descend(
        self,
        start: Cameras,
        picture: "_Picture",
        scale: torch.Tensor,
        background: torch.Tensor,
        generator: torch.Generator,
    ) -> Cameras:
        """The camera after all steps from ``start``; ``scale`` (6,) is a correction that moves a pixel each."""
        settings = self.settings
        poses = PoseRefinement(1, PoseRefinementConfig(manifold=settings.manifold))
        pixels, gradient, first, second = (torch.zeros(6) for _ in range(4))
        decay = (settings.last_step / settings.first_step) ** (1.0 / max(settings.steps - 1, 1))
        for step in range(settings.steps):
            at, truth = picture.draw(settings.rays, generator, blur=BLURS[step * len(BLURS) // settings.steps])
            asked = pixels.clone().requires_grad_()
            with torch.enable_grad():
                rays = _corrected(poses, start, at, asked * scale)
                loss = self._loss(rays, truth, background)
                if not loss.requires_grad:
                    break  # Every ray misses the field: there is nothing to go by.
                (found,) = torch.autograd.grad(loss, asked)
            if not bool(found.isfinite().all()):
                break
            gradient.copy_(found)
            rule = AdamRule(learning_rate=settings.first_step * decay**step)
            adam_step(pixels, gradient, first, second, step=step + 1, rule=rule)
        with torch.no_grad():
            poses.corrections.copy_((pixels * scale)[None])
            return replace(start, camera_to_world=poses.apply_to_poses(start.camera_to_world))

    def _errors_of(
        self, camera: Cameras, checked: tuple[torch.Tensor, torch.Tensor], background: torch.Tensor
    ) -> "_Errors":
        """Squared errors with the exposure fitted and without: PSNR is what a pose is to please, not the loss."""
        at, truth = checked
        with torch.no_grad():
            seen = self._colours(_cast(camera, at).to(self._device), background=background).cpu()
            gain, offset = _exposure(seen, truth)
            exposed = (seen * gain + offset - truth).square().mean(1)
            return _Errors(exposed=exposed, plain=(seen - truth).square().mean(1))

    def _loss(self, rays: Rays, truth: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
        """How badly the field explains ``truth`` (R, 3)."""
        return torch.nn.functional.huber_loss(self._seen(rays, truth, background), truth, delta=HUBER_DELTA)

    def _seen(self, rays: Rays, truth: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
        """What rays see (R, 3), exposed as ``truth`` is."""
        seen = self._colours(rays.to(self._device), background=background).cpu()
        gain, offset = _exposure(seen.detach(), truth)
        return seen * gain + offset


class _Errors(NamedTuple):
    """Of a pose, (R,) a pixel."""

    exposed: torch.Tensor
    """With the exposure fitted."""
    plain: torch.Tensor
    """As they are."""


def _is_gain(gains: torch.Tensor, block: torch.Tensor) -> bool:
    """Whether pixels gain more than twice what chance would give them: neighbours, of one ``block``, gain together."""
    if not bool(gains.isfinite().all()):
        return False
    _, group = block.unique(return_inverse=True)
    count = int(group.max()) + 1
    mean = gains.mean()
    apart = torch.zeros(count).index_add(0, group, gains - mean)
    return bool(mean > 2.0 * apart.square().sum().sqrt() / len(gains))


class _Picture:
    """Random pixels of the half that is fitted."""

    def __init__(self, *, chosen: torch.Tensor, width: int, truth: torch.Tensor, mask: torch.Tensor | None) -> None:
        self._chosen, self._width, self._truth, self._mask = chosen, width, truth, mask
        self._blurred: tuple[float, torch.Tensor] = (0.0, truth)

    def draw(self, count: int, generator: torch.Generator, *, blur: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixel centres (R, 2) and colours (R, 3) of ``count`` pixels, of the picture blurred by ``blur`` pixels."""
        if self._blurred[0] != blur:
            self._blurred = (blur, blurred(self._truth, blur, self._mask) if blur else self._truth)
        flat = self._chosen[torch.randint(len(self._chosen), (count,), generator=generator)]
        row, column = flat // self._width, flat % self._width
        return torch.stack([column, row], dim=1).float() + 0.5, self._blurred[1][row, column]


def _tile_side(height: int, width: int) -> int:
    """Of a tile of the checkerboard, pixels."""
    return max(1, math.ceil(max(height, width) / TILES_ACROSS))


def _checkerboard(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Every other tile (H, W) bool, that of the first pixel included, and every third block of two by two tiles."""
    side = _tile_side(height, width)
    rows, columns = torch.arange(height)[:, None] // side, torch.arange(width) // side
    return (rows + columns) % 2 == 0, (rows // 2 + columns // 2) % 3 == 0


def _cast(camera: Cameras, at: torch.Tensor) -> Rays:
    return camera.rays(torch.zeros(len(at), dtype=torch.int64), at)


def _corrected(poses: PoseRefinement, camera: Cameras, at: torch.Tensor, correction: torch.Tensor) -> Rays:
    """The rays through ``at`` (R, 2) of ``camera`` as ``correction`` (6,) moves them, differentiable in it."""
    rays = _cast(camera, at)
    moved: Rays = torch.func.functional_call(poses, {"corrections": correction[None]}, (rays,))
    if camera.model != "orthographic":
        return moved
    # Their rays start all over a plane, which turns with the camera about its centre.
    offsets = rays.origins - camera.origins
    turned = rotate(offsets, correction[None, 3:].expand(len(at), 3))
    return replace(moved, origins=moved.origins + (turned - offsets))


def _exposure(seen: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gain and offset (3,) that bring ``seen`` (R, 3) nearest to ``truth``; the gain stays between 1/2 and 2.

    Otherwise a darker photograph would pull the camera to where the scene is dark.
    """
    mean_seen, mean_truth = seen.mean(0), truth.mean(0)
    centred = seen - mean_seen
    gain = (centred * (truth - mean_truth)).sum(0) / centred.square().sum(0).clamp(min=1e-8)
    gain = gain.clamp(0.5, 2.0)
    return gain, mean_truth - gain * mean_seen


def _pixel_units(
    camera: Cameras, chosen: torch.Tensor, depth: torch.Tensor, opacity: torch.Tensor, width: int
) -> torch.Tensor:
    """(6,): the translation and the rotation, the same on each axis, that move the picture by about one pixel."""
    sample = chosen[:: max(1, len(chosen) // _MOTION_RAYS)]
    at = torch.stack([sample % width, sample // width], dim=1).float() + 0.5
    pixel = float(_cast(camera, at).pixel_area.median().sqrt())
    reach = depth.flatten()[sample][opacity.flatten()[sample] > 0.5]
    reach = reach[reach.isfinite() & (reach > 0)]
    middle = float(reach.median()) if len(reach) else 1.0
    translation, rotation = (pixel, pixel / middle) if camera.model == "orthographic" else (pixel * middle, pixel)
    return torch.tensor([translation] * 3 + [rotation] * 3)


def _difference(
    given: Cameras, moved: Cameras, depth: torch.Tensor, opacity: torch.Tensor, mask: torch.Tensor | None
) -> dict[str, float]:
    """``degrees``, ``distance`` and ``pixels`` of `Alignment`."""
    before, after = given.camera_to_world[0].double(), moved.camera_to_world[0].double()
    turn = before[:, :3].T @ after[:, :3]
    # The sine too: an arc cosine alone loses the angles below a hundredth of a degree to rounding.
    skew = torch.stack([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    angle = torch.atan2(skew.norm(), turn.trace() - 1.0)
    shown = opacity > 0.5 if mask is None else (opacity > 0.5) & mask
    index = (shown & depth.isfinite()).flatten().nonzero()[:, 0]
    index = index[:: max(1, len(index) // _MOTION_RAYS)]
    pixels = 0.0
    if len(index):
        at = torch.stack([index % depth.shape[1], index // depth.shape[1]], dim=1).float() + 0.5
        rays = _cast(given, at)
        points = rays.origins.double() + depth.flatten()[index, None].double() * rays.directions.double()
        cameras = torch.zeros(len(index), dtype=torch.int64)
        motion = moved.project(cameras, points)[0] - given.project(cameras, points)[0]
        pixels = float(motion.norm(dim=1).nan_to_num(0.0, 0.0, 0.0).median())
    return {
        "degrees": math.degrees(float(angle)),
        "distance": float((after[:, 3] - before[:, 3]).norm()),
        "pixels": pixels,
    }


@contextlib.contextmanager
def _frozen(parameters: list[torch.nn.Parameter]) -> Iterator[None]:
    """Inside, none of ``parameters`` asks for a gradient."""
    asking = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
