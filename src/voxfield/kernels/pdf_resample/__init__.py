"""New interval edges where a histogram along rays has its mass. The contract is in ``api.py``."""

from voxfield.kernels.pdf_resample.api import pdf_resample

__all__ = ["pdf_resample"]
