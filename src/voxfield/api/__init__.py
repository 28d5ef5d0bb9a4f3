"""The public calls: train a field, open a run, measure, render, report; make captures, handle volumes and shapes.

They are attributes of the package ``voxfield``, and the command line calls only those.
"""
