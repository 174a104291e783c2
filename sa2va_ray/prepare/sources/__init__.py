"""Reads a source: which images there are and what is annotated on them. No image is opened here.

The layouts are in the table of docs/en/prepare.md.

A path in a JSON file is looked up from the folder of the file, else as the end of a path below that folder. In the JSON
lists a polygon may also be given as `[[x, y], ...]`, and `height` and `width` of an item are the size that it is drawn
in. Beside JSON labels, mask images are only compared with.
"""

from sa2va_ray.prepare.sources.items import SourceOptions
from sa2va_ray.prepare.sources.read import Source, read_source

__all__ = ["Source", "SourceOptions", "read_source"]
