"""Reads a source: which images there are and what is annotated on them. No image is opened here.

| layout        | what it looks like                                                                                   |
|---------------|------------------------------------------------------------------------------------------------------|
| `flat`        | JSON list of `{"image": path, "mask": [[x, y, ...], ...], "text": [one per polygon]}`                |
| `nested`      | one level deeper, `"mask": [[[x, y, ...], ...], ...]`, with a text per object                        |
| `single_text` | `flat` with one text, which all polygons of the item belong to                                       |
| `guide`       | JSON list of `{"image": path, "mask": [{"segmentation": [[x, y, ...], ...]}, ...], "conversations"}` |
| `coco`        | JSON mapping: `images`, `annotations` (polygons, RLE), `categories`, whose names are the phrases     |
| `labelme`     | a JSON file beside each image, or in a sibling folder, with `shapes`, whose labels are the phrases   |
| `mask_images` | images and mask images: sibling folders as `images` / `masks`, or one folder and names with `_mask`  |
| `dicom`       | `run.dcm` and mask images `run_<frame>.png`, frames counted from 1; `run.png` where it has one frame |

A path in a JSON file is looked up from the folder of the file, else as the end of a path below that folder. In the JSON
lists a polygon may also be given as `[[x, y], ...]`, and `height` and `width` of an item are the size that it is drawn
in. Beside JSON labels, mask images are only compared with.
"""

from sa2va_ray.prepare.sources.items import SourceOptions
from sa2va_ray.prepare.sources.read import Source, read_source

__all__ = ["Source", "SourceOptions", "read_source"]
