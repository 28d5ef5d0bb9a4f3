"""The names of the voxel dataset generator's document: put ``voxfield.compat.`` before its package in import lines.

What each does, and where the document is wrong, is in docs/compat/voxel_dataset_generator.md.
"""
