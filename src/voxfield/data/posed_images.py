"""Posed photographs: what every model is trained on and measured against."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from voxfield.colour import ToneCurve
from voxfield.data.image_store import ImageStore
from voxfield.data.scales import Scales, Uneven, check_scales, check_sizes, dropped_by, reduced_cameras
from voxfield.data.sparse_points import ObservedPoints
from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.camera import Cameras
from voxfield.geometry.ndc import NdcFrame
from voxfield.geometry.pose import SceneTransform
from voxfield.storage.skipped import Skipped


@dataclass(frozen=True, kw_only=True)
class DepthImages:
    """The depth images of a split's pictures: 16-bit grey, or ``.npy`` arrays; 0 where nothing is known, of the
    picture's shape.
    """

    paths: tuple[Path | None, ...]
    """One a picture; None where it has none. The files may not exist."""
    unit: float
    """World units that one step of the 16 bits, or a 1 of an array, is worth, above 0."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PosedImages:
    """One split of a capture: N pictures with cameras, in one world."""

    cameras: Cameras
    """N cameras at the working resolution, in world coordinates, one a picture."""
    images: ImageStore
    """The N pictures."""
    names: tuple[str, ...]
    """Their paths as the capture gives them."""
    split: str
    """``train``, ``val`` or ``test``."""
    bounds: Bounds
    """Region of interest in the world."""
    unbounded: bool
    """Whether there is something to see beyond ``bounds``."""
    near: float
    """Nearest distance sampled along a ray, world units."""
    transform: SceneTransform
    """Capture coordinates (those of the original reconstruction) to world coordinates; the same for every split."""
    remarks: tuple[str, ...] = ()
    """What a person should know of the capture, a sentence each."""
    skipped: tuple[Skipped, ...]
    """Pictures of the capture left out, with reasons: files missing in the whole capture, broken ones in this split."""
    source: dict[str, object]
    """For the record: format, path, file, downscale, hash, split_rule, and aabb_scale where given."""
    has_alpha: bool
    """Whether pictures have an alpha channel: the background is then free to choose."""
    has_masks: bool
    """Whether some pictures have masks of pixels to ignore; linear ones always do, for those that are NaN."""
    observed: tuple[ObservedPoints, ...] | None = None
    """For every picture the sparse points it saw, where the capture has them."""
    depth_images: DepthImages | None = None
    """Where the pictures' depth images are, where the capture names some."""
    ndc: NdcFrame | None = None
    """What normalised device coordinates are relative to, the same for every split, where they are asked for."""
    tone: ToneCurve | None = None
    """How linear pictures (EXR) are exposed and compared; None for sRGB pictures."""
    scales: Scales | None = None
    """Which pictures are copies of one image at several scales; None where every picture is an image of its own."""

    def __post_init__(self) -> None:
        if self.images.linear != (self.tone is not None):
            raise InputError("tone: expected a tone curve for linear pictures (floats), None for sRGB ones (uint8).")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_images(self) -> int:
        """Images M: pictures, copies at other scales not counted. ``Rays.camera_index`` of a batch counts in them."""
        return len(self) if self.scales is None else self.scales.num_images

    @property
    def image_cameras(self) -> Cameras:
        """M cameras: those of the images' finest copies."""
        return self.cameras if self.scales is None else self.cameras[self.scales.finest]

    def at_scales(self, factors: Sequence[int], *, uneven: Uneven = "refuse") -> "PosedImages":
        """The same images at several scales: every picture becomes copies reduced by each of ``factors``.

        Args:
            factors: whole and rising, such as (1, 2, 4, 8).
            uneven: ``crop`` leaves out rows and columns that a factor does not divide.

        Raises:
            InputError: a picture smaller than a factor, or not divided by one; or there are several scales already.
        """
        check_scales(factors)
        if self.scales is not None:
            raise InputError(
                f"capture.scales: {self.source.get('path')} holds its pictures at several scales already "
                f"({', '.join(map(str, self.scales.values))}). Leave it at 1."
            )
        shapes = [self.images.shape(index) for index in range(len(self))]
        check_sizes(self.names, shapes, factors, uneven)
        depth = self.depth_images
        if depth is not None:
            depth = replace(depth, paths=tuple(path for path in depth.paths for _ in factors))
        return replace(
            self,
            cameras=reduced_cameras(self.cameras, factors),
            images=self.images.at_scales(factors),
            names=tuple(name for name in self.names for _ in factors),
            observed=None
            if self.observed is None
            else tuple(seen.rescaled(1 / factor, 1 / factor, 1.0) for seen in self.observed for factor in factors),
            depth_images=depth,
            scales=replace(Scales.of_copies(len(self), factors), dropped=dropped_by(shapes, factors)),
        )
