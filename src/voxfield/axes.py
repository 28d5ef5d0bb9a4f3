"""Names of axes and conventions that every module shares, stated once.

World space is right-handed with +Z up. A camera looks along its own -Z axis, +X right, +Y up (OpenGL axes); a pose is
the camera-to-world matrix, (3, 4). Pixel centres lie at +0.5. Distances ``t`` run along unit directions, in world
units.
Dense voxel tensors are (D, H, W) = (z, y, x) while coordinates are written (x, y, z). Cell i covers [i, i + 1).
"""

from typing import Final

WORLD_UP: Final = (0.0, 0.0, 1.0)
"""Up in world space."""

CAMERA_FORWARD: Final = (0.0, 0.0, -1.0)
"""The direction a camera looks along, in its own axes."""
