"""Regularisers of discriminator or generator, one per file.

All parts and base classes can be imported from this package.
"""

from stackflower.utils.lazy import export_classes

__getattr__, __dir__ = export_classes(__name__, __file__)
