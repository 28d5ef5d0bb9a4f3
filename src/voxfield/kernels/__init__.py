"""Numerical operations: tensors in, tensors out.

One folder is one operation with one contract (``api.py``) and up to three implementations: ``reference.py`` in plain
torch, which defines what is correct, ``numba_cpu.py`` and ``triton_gpu.py``. They compute the same function; only speed
and device differ. Nothing here knows about cameras, models or files.
"""
