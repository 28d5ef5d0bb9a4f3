"""`SphereLayers`: density and colour on concentric spheres, what Plenoxels sees behind its grid.

The spheres lie outside the unit ball; `voxfield.kernels.sphere_layers` says where, and how they are interpolated. Of a
sphere only some texels are stored, as voxels of a grid are.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch

from voxfield.checks import check_dtype, check_range, check_shape
from voxfield.errors import InputError
from voxfield.kernels.sh_grid import GridLinks
from voxfield.kernels.sh_grid.grid import dilated
from voxfield.kernels.sphere_layers import LayerGradients, LayerValues, RenderedSpheres, render_spheres, sphere_radii
from voxfield.voxels.voxel_grid import POINTS_AT_ONCE, brick_links


class SphereLayers(torch.nn.Module):
    """Spheres about the origin. Values are parameters: ``density`` (N,), ``rgb`` (N, 3), see the kernel's contract."""

    links: torch.Tensor
    """(L, H, 2 H) int32: the row of each texel, -1 where none is stored."""

    def __init__(self, layers: int, height: int, *, density: float = 0.1, stored: torch.Tensor | None = None) -> None:
        """Spheres of one density and grey.

        Args:
            layers: how many, 1 to 256.
            height: texels from pole to pole, 2 to 4096; twice as many go around.
            density: of every texel, per radius of the unit ball.
            stored: (L, H, 2 H) bool: the texels that exist; None: all.

        Raises:
            InputError: a number out of range, or more texels than int32 links can name.
        """
        super().__init__()
        check_range("layers", layers, minimum=1, maximum=256)
        check_range("height", height, minimum=2, maximum=4096)
        shape = (layers, height, 2 * height)
        if layers * height * 2 * height >= 1 << 31:
            raise InputError(f"height: {layers} spheres of {height} x {2 * height} texels are too many, below 2^31.")
        if stored is None:
            stored = torch.ones(shape, dtype=torch.bool)
        check_shape("stored", stored, shape)
        links, count = brick_links(stored)
        self.register_buffer("links", links)
        self.density = torch.nn.Parameter(torch.full((count,), float(density), device=links.device))
        self.rgb = torch.nn.Parameter(torch.zeros(count, 3, device=links.device))

    @property
    def num_texels(self) -> int:
        """Texels stored."""
        return len(self.density)

    @property
    def values(self) -> LayerValues:
        """The spheres as kernels take them; it shares memory."""
        return LayerValues(links=self.links, density=self.density, rgb=self.rgb)

    @property
    def topology(self) -> GridLinks:
        """The texels as voxels of a grid, for kernels to which spheres are layers; nothing is known of clearances."""
        nothing = torch.zeros((), dtype=torch.uint8, device=self.links.device).expand(self.links.shape)
        return GridLinks(links=self.links, clearance=nothing, count=self.num_texels)

    def render(
        self,
        origins: torch.Tensor,
        directions: torch.Tensor,
        *,
        gradients: LayerGradients | None = None,
    ) -> RenderedSpheres:
        """What rays see of the spheres: see `render_spheres`."""
        return render_spheres(origins, directions, self.values, gradients=gradients)

    @torch.no_grad()
    def prune(self, keep: torch.Tensor, *, dilate: int = 0) -> "SphereLayers":
        """The spheres without the texels that do not matter.

        Args:
            keep: (N,) bool, by row.
            dilate: keep also what is within so many steps of a kept texel, on its sphere and the next ones; at least 0.
        """
        check_shape("keep", keep, (self.num_texels,))
        check_range("dilate", dilate, minimum=0)
        existing = self.links >= 0
        stored = torch.zeros_like(existing)
        stored[existing] = keep[self.links[existing].long()]
        for _ in range(dilate):
            stored = dilated(stored)
        pruned = SphereLayers(*self.links.shape[:2], stored=stored & existing)
        source = pruned.rows_in(self)
        pruned.density.copy_(self.density[source])
        pruned.rgb.copy_(self.rgb[source])
        return pruned

    def rows_in(self, other: "SphereLayers") -> torch.Tensor:
        """(N,) int64: for every texel the row of the same one in ``other``; -1 where that does not store it."""
        rows = torch.full((self.num_texels,), -1, dtype=torch.int64, device=self.links.device)
        stored = self.links >= 0
        rows[self.links[stored].long()] = other.links[stored].long()
        return rows

    def directions(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Rows (n,), unit vectors to the texels' centres (n, 3) and numbers of their spheres (n,), some at a time."""
        height, width = self.links.shape[1:]
        flat = self.links.reshape(-1)
        for places in (flat >= 0).nonzero()[:, 0].split(POINTS_AT_ONCE):
            line, column = places // width % height, places % width
            polar = (line + 0.5) / height * torch.pi
            longitude = ((column + 0.5) / width - 0.5) * 2 * torch.pi
            level = polar.sin()
            towards = torch.stack([level * longitude.cos(), level * longitude.sin(), polar.cos()], dim=1)
            yield flat[places].long(), towards, places // (width * height)

    def radii(self) -> torch.Tensor:
        """(L,) of the spheres, nearest first."""
        return sphere_radii(len(self.links)).float().to(self.links.device)

    @torch.no_grad()
    def adopt(self, other: "SphereLayers") -> None:
        """Become ``other``, whose memory is then shared."""
        self.register_buffer("links", other.links)
        self.density, self.rgb = torch.nn.Parameter(other.density.data), torch.nn.Parameter(other.rgb.data)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Take the size of what is loaded: pruned spheres have fewer texels than fresh ones, and where memory was
        short, or is now, theirs are wider or narrower.
        """
        saved = {name: state_dict.get(prefix + name) for name in ("links", "density", "rgb")}
        errors: list[str] = args[-1]
        if all(isinstance(value, torch.Tensor) for value in saved.values()):
            links, density, rgb = (cast(torch.Tensor, value) for value in saved.values())
            try:
                height = links.shape[1] if links.ndim == 3 else self.links.shape[1]
                check_shape("links", links, (len(self.links), height, 2 * height))
                check_dtype("links", links, (torch.int32,))
                check_shape("density", density, ("N",))
                check_shape("rgb", rgb, (len(density), 3))
                lowest, highest = int(links.min()), int(links.max())
                if lowest < -1 or highest >= len(density):
                    raise InputError(f"links: expected -1 or rows below {len(density)}, got {lowest} to {highest}.")
            except InputError as error:
                errors.append(str(error))
                return
            device = self.links.device
            self.register_buffer("links", torch.empty_like(links, device=device))
            self.density = torch.nn.Parameter(torch.empty_like(density, device=device))
            self.rgb = torch.nn.Parameter(torch.empty_like(rgb, device=device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
