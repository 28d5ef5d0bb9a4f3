"""Optimiser steps on the rows of a tensor that a batch touched. The contract is in ``api.py``."""

from voxfield.kernels.row_update.api import RowRule, row_update

__all__ = ["RowRule", "row_update"]
