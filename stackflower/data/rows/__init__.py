"""Processing of rows, from the raw rows of any container to the checked rows of a split.

A layout lists `RawTable` objects, the unprocessed rows of its containers. `Assembler` finds their columns, normalises
their cells, resolves the names of images, groups rows by image, and checks them.
"""
