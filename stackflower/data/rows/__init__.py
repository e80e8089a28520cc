"""From the rows of any file to checked rows of a split: the one path for captions and labels.

A layout lists `RawTable`: rows as a container holds them. `assemble` finds their columns, normalises their cells,
resolves the names of images, groups rows by image, and checks them.
"""
