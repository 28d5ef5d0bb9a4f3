"""Concentric spheres of density and colour around a scene. The contract is in ``api.py``."""

from voxfield.kernels.sphere_layers.api import RenderedSpheres, render_spheres
from voxfield.kernels.sphere_layers.layers import LayerGradients, LayerValues, sphere_radii

__all__ = ["LayerGradients", "LayerValues", "RenderedSpheres", "render_spheres", "sphere_radii"]
