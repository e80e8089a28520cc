"""Data sets: sources, files and the prepared form. Parts and base classes can be imported from here."""

from stackflower.utils.lazy import export_classes

__getattr__, __dir__ = export_classes(__name__, __file__)
