"""Pictures of a capture, decoded when they are needed, with a bound on the memory they take.

Pixels stay as files have them: uint8, or floats for linear pictures. ``read`` keeps the most recently used pictures up
to ``cache_bytes``; ``decode_many`` bypasses the cache and decodes on several threads (the decoder releases Python's
lock). A picture that turns out broken is recorded in ``failures``, never silently replaced.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from voxfield.checks import check_choice, check_dtype
from voxfield.data.decode import Size, read_image, read_linear, read_mask
from voxfield.data.scales import area_reduced
from voxfield.errors import FormatError, InputError
from voxfield.storage.skipped import Skipped

DECODE_THREADS: Final = 2
"""Decoding an 800x800 PNG takes about 10 ms of one core; two threads keep up with training on two cores."""

PIXEL_DTYPES: Final = (torch.uint8, torch.float16, torch.float32)
"""Values a store may keep: sRGB in 8 bits, linear light in floats."""
_CROP_ROWS: Final = 128
"""Rows of a crop's mask made at a time."""

Decoded = tuple[Tensor, Tensor | None]
"""A picture (H, W, C) of the store's dtype and its mask (H, W) bool, or None."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture on disk."""

    name: str
    """As the capture names it."""
    path: Path
    """The file, of size ``size`` or ``full_size``."""
    mask_path: Path | None
    """The mask's file, of either size; None keeps every pixel."""
    size: Size
    """(width, height) it is read at."""
    full_size: Size
    """(width, height) before reduction."""
    circle: tuple[float, float, float] | None = None
    """(x, y, radius) in pixels of the full size: what lies outside is masked; None masks nothing."""
    crop_border: int = 0
    """Pixels of the full size this near to its edges are masked."""
    gain: float = 1.0
    """Factor on the colours of a linear picture, above 0: undoes its own exposure."""
    reduced_copy: bool = False
    """Whether the file holds ``size`` already, so that it is cheaper to decode than ``full_size``."""

    @property
    def cropped(self) -> bool:
        """Whether ``circle`` or ``crop_border`` masks anything."""
        return self.circle is not None or self.crop_border > 0

    @property
    def pixels_to_decode(self) -> int:
        """Pixels of the file: what reading it costs."""
        width, height = self.size if self.reduced_copy else self.full_size
        return width * height


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """A copy of a picture at a coarser scale."""

    source: Picture | Decoded
    """The picture."""
    factor: int
    """How many times narrower the copy is, at least 2."""


@dataclass(frozen=True, kw_only=True)
class FaultyPixels:
    """Pixels of a linear picture that its file holds wrong."""

    name: str
    """The picture, as the capture names it."""
    broken: int
    """NaN or infinite: they are masked."""
    negative: int
    """Below 0: taken as 0."""


class ImageStore:
    """Random access to the pictures of a capture. Safe to use from several threads."""

    def __init__(
        self, pictures: Sequence[Picture], *, channels: int, cache_bytes: int, dtype: torch.dtype = torch.uint8
    ) -> None:
        """Nothing is decoded yet.

        Args:
            pictures: files, in order.
            channels: 3 (RGB) or 4 (RGBA, straight alpha) for all of them.
            cache_bytes: most bytes ``read`` keeps; at least the latest picture is kept.
            dtype: uint8 for sRGB pictures, float16 or float32 for linear ones (EXR files).
        """
        if channels not in (3, 4):
            raise InputError(f"channels: expected 3 or 4, got {channels}.")
        check_choice("dtype", dtype, PIXEL_DTYPES)
        self.channels = channels
        self.dtype = dtype
        self.cache_bytes = cache_bytes
        self._names = [picture.name for picture in pictures]
        self._sizes = [picture.size for picture in pictures]
        self._pictures: list[Picture | Decoded | Reduced] = list(pictures)
        self._cache: OrderedDict[int, Decoded] = OrderedDict()
        self._cached_bytes = 0
        self._failures: dict[int, Skipped] = {}
        self._faulty: dict[int, FaultyPixels] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_tensors(
        cls,
        images: Sequence[Tensor],
        *,
        masks: Sequence[Tensor | None] | None = None,
        names: Sequence[str] | None = None,
        dtype: torch.dtype = torch.uint8,
    ) -> "ImageStore":
        """A store over pictures that are in memory already.

        Args:
            images: (H, W, C) of ``dtype`` each, all with C = 3 or all with C = 4; linear colours finite and at least 0.
            masks: (H, W) bool or None each; None for no masks at all.
            names: for messages; numbers by default.
            dtype: as for the constructor.
        """
        channels = {int(image.shape[-1]) if image.ndim == 3 else 0 for image in images} or {3}
        if len(channels) != 1:
            raise InputError(f"images: expected (H, W, C) with the same C for all, got C in {sorted(channels)}.")
        store = cls([], channels=channels.pop(), cache_bytes=1, dtype=dtype)
        for index, image in enumerate(images):
            check_dtype(f"images[{index}]", image, (dtype,))
            mask = masks[index] if masks is not None else None
            if mask is not None and mask.shape != image.shape[:2]:
                raise InputError(f"masks[{index}]: expected shape {tuple(image.shape[:2])}, got {tuple(mask.shape)}.")
            store._names.append(names[index] if names is not None else str(index))
            store._sizes.append((image.shape[1], image.shape[0]))
            store._pictures.append((image, mask))
        return store

    def at_scales(self, factors: Sequence[int]) -> "ImageStore":
        """A store of every picture reduced by each of ``factors`` (>= 1) in turn, picture by picture.

        Copies are made by area filtering when they are read; see `voxfield.data.scales.area_reduced`.
        """
        store = ImageStore([], channels=self.channels, cache_bytes=self.cache_bytes, dtype=self.dtype)
        for index, (width, height) in enumerate(self._sizes):
            source = self._source(index)
            picture = self._pictures[index]
            already = picture.factor if isinstance(picture, Reduced) else 1
            for factor in factors:
                store._names.append(self._names[index])
                store._sizes.append((width // factor, height // factor))
                reduced = Reduced(source=source, factor=already * factor)
                store._pictures.append(source if reduced.factor == 1 else reduced)
        return store

    def __len__(self) -> int:
        return len(self._pictures)

    @property
    def linear(self) -> bool:
        """Whether pictures are linear light, unbounded, rather than sRGB."""
        return self.dtype != torch.uint8

    @property
    def has_masks(self) -> bool:
        """Whether any picture has a mask."""
        return any(self.mask_is_stated(index) for index in range(len(self)))

    def mask_is_stated(self, index: int) -> bool:
        """Whether picture ``index`` has a mask, without decoding it."""
        picture = self._source(index)
        if isinstance(picture, Picture):
            # Which pixels of a linear picture are NaN is not known before it is decoded.
            return picture.mask_path is not None or picture.cropped or self.linear
        return picture[1] is not None

    @property
    def failures(self) -> tuple[Skipped, ...]:
        """Pictures that could not be decoded so far, in their order."""
        with self._lock:
            # Copies of one picture fail alike.
            return tuple(dict.fromkeys(self._failures[index] for index in sorted(self._failures)))

    @property
    def faulty_pixels(self) -> tuple[FaultyPixels, ...]:
        """Linear pictures decoded so far that hold NaN, infinite or negative values, in their order."""
        with self._lock:
            return tuple(dict.fromkeys(self._faulty[index] for index in sorted(self._faulty)))

    @property
    def bytes_per_pixel(self) -> int:
        """Bytes of a decoded pixel, its mask included."""
        return self.channels * self.dtype.itemsize + (1 if self.has_masks else 0)

    @property
    def total_bytes(self) -> int:
        """Bytes of all pictures decoded, masks included."""
        return sum(width * height for width, height in self._sizes) * self.bytes_per_pixel

    @property
    def fits(self) -> bool:
        """Whether all pictures together may be in memory: within ``cache_bytes``, or there already."""
        in_memory = not any(isinstance(self._source(index), Picture) for index in range(len(self)))
        return in_memory or self.total_bytes <= self.cache_bytes

    def shape(self, index: int) -> tuple[int, int, int]:
        """(H, W, C) of picture ``index``, without decoding it."""
        width, height = self._sizes[index]
        return height, width, self.channels

    def pixels_to_decode(self, index: int) -> int:
        """What decoding picture ``index`` costs, in pixels of its file."""
        picture = self._source(index)
        if isinstance(picture, Picture):
            return picture.pixels_to_decode
        width, height = self._sizes[index]
        return width * height

    def read(self, index: int) -> Tensor:
        """Picture ``index``: (H, W, C) of ``dtype``, straight alpha. Shared with the cache: do not write to it.

        Raises:
            FormatError: the file is missing or broken; it is then listed in ``failures``.
        """
        return self._fetch(index)[0]

    def mask(self, index: int) -> Tensor | None:
        """The mask of picture ``index``: (H, W) bool, True where the picture counts; None when it has none."""
        return self._fetch(index)[1] if self.mask_is_stated(index) else None

    def decode(self, index: int) -> Decoded:
        """Decode picture ``index`` and its mask without keeping them.

        Raises:
            FormatError: the file is missing or broken; it is then listed in ``failures``.
        """
        return self._at_scale(index, self._decode_source(index))

    def _source(self, index: int) -> Picture | Decoded:
        """What picture ``index`` is, or is a copy of."""
        picture = self._pictures[index]
        return picture.source if isinstance(picture, Reduced) else picture

    def _at_scale(self, index: int, source: Decoded) -> Decoded:
        """``source``, what picture ``index`` is a copy of, at that picture's scale."""
        picture = self._pictures[index]
        return area_reduced(*source, picture.factor) if isinstance(picture, Reduced) else source

    def _decode_source(self, index: int) -> Decoded:
        picture = self._source(index)
        if not isinstance(picture, Picture):
            return picture
        try:
            image, mask = self._decode_linear(index, picture) if self.linear else (self._decode_srgb(picture), None)
            if picture.cropped:
                mask = crop_mask(picture) if mask is None else mask & crop_mask(picture)
            if picture.mask_path is not None:
                stated = read_mask(picture.mask_path, size=picture.size, full_size=picture.full_size)
                mask = stated if mask is None else mask & stated
            return image, mask
        except FormatError as error:
            with self._lock:
                self._failures[index] = Skipped(path=picture.name, reason=str(error))
            raise

    def _decode_srgb(self, picture: Picture) -> Tensor:
        return read_image(picture.path, channels=self.channels, size=picture.size, full_size=picture.full_size)

    def _decode_linear(self, index: int, picture: Picture) -> tuple[Tensor, Tensor]:
        """A linear picture and which of its pixels are finite; those that are not are counted."""
        decoded = read_linear(
            picture.path,
            channels=self.channels,
            size=picture.size,
            full_size=picture.full_size,
            dtype=self.dtype,
            gain=picture.gain,
        )
        if decoded.broken or decoded.negative:
            with self._lock:
                self._faulty[index] = FaultyPixels(name=picture.name, broken=decoded.broken, negative=decoded.negative)
        return decoded.image, decoded.kept

    def decode_many(self, indices: Sequence[int], receive: Callable[[int, Decoded | None], None]) -> None:
        """Decode pictures on ``DECODE_THREADS`` threads and hand each to ``receive(position, decoded)``.

        Args:
            indices: which pictures; ``position`` counts along them.
            receive: called from the decoding threads, in any order, once a position; None stands for a broken
                picture. Decoded pictures are not kept by the store, so no more than ``DECODE_THREADS`` are alive at a
                time unless it keeps them. Copies of one picture are made of one decoding.
        """
        copies: dict[int, list[int]] = {}
        for position, index in enumerate(indices):
            copies.setdefault(id(self._source(index)), []).append(position)

        def work(positions: list[int]) -> None:
            try:
                source = self._decode_source(indices[positions[0]])
            except FormatError:
                for position in positions:
                    receive(position, None)
            else:
                for position in positions:
                    receive(position, self._at_scale(indices[position], source))

        with ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="voxfield-decode") as pool:
            for future in [pool.submit(work, positions) for positions in copies.values()]:
                future.result()

    def adopt(self, index: int, image: Tensor, mask: Tensor | None) -> None:
        """Serve ``read(index)`` from memory that someone else holds (a sampler's), in place of the file."""
        with self._lock:
            self._pictures[index] = (image, mask)
            self._drop(index)

    def _fetch(self, index: int) -> Decoded:
        picture = self._pictures[index]
        if not isinstance(picture, Picture | Reduced):
            return picture
        with self._lock:
            if index in self._cache:
                self._cache.move_to_end(index)
                return self._cache[index]
        decoded = self.decode(index)
        with self._lock:
            self._drop(index)
            self._cache[index] = decoded
            self._cached_bytes += _bytes_of(decoded)
            while self._cached_bytes > self.cache_bytes and len(self._cache) > 1:
                self._drop(next(iter(self._cache)))
        return decoded

    def _drop(self, index: int) -> None:
        """Forget a cached picture, if it is there. The lock is held by the caller."""
        dropped = self._cache.pop(index, None)
        if dropped is not None:
            self._cached_bytes -= _bytes_of(dropped)


def crop_mask(picture: Picture) -> Tensor:
    """(H, W) bool at the picture's working size: True where its crop keeps the pixel: wholly inside the borders, its
    centre inside the circle.
    """
    inside, centres = [], []
    for length, full in zip(picture.size, picture.full_size, strict=True):
        edge = torch.arange(length + 1, dtype=torch.float32) * (full / length)
        inside.append((edge[:-1] >= picture.crop_border) & (edge[1:] <= full - picture.crop_border))
        centres.append((edge[:-1] + edge[1:]) / 2)
    kept = inside[0][None, :] & inside[1][:, None]
    if picture.circle is not None:
        x, y, radius = picture.circle
        # Some rows at a time: the distances of all pixels would take more memory than the picture.
        for rows, heights in zip(kept.split(_CROP_ROWS), centres[1].split(_CROP_ROWS), strict=True):
            rows.logical_and_(torch.hypot(centres[0][None, :] - x, heights[:, None] - y) <= radius)
    return kept


def _bytes_of(decoded: Decoded) -> int:
    image, mask = decoded
    return image.nbytes + (0 if mask is None else mask.nbytes)
