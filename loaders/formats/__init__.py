"""The ways in which a weight is stored: one file a format.

Each file that has FORMATS, a tuple of `base.format.Format`, adds its records. A new format is such a file, and a header
of it in the tests; no other file changes. `base/` is what all formats share.
"""
