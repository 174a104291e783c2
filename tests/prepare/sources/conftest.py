"""Sources in tmp_path, of invented people. Whatever a test reads, none of their names may come out."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sa2va_ray.prepare.sources import Source, SourceOptions, read_source

HIDDEN = "MuellerHans"
OPTIONS = SourceOptions(phrase="vessels", mask_threshold=None, max_pixels=10_000)
SQUARE = [1, 1, 9, 1, 9, 9, 1, 9]


def write_image(path: Path, size: tuple[int, int] = (12, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, 90, np.uint8)).save(path)


def write_mask(path: Path, size: tuple[int, int] = (12, 16)) -> None:
    """Foreground is a rectangle of 3 x 5 px."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size, np.uint8)
    mask[2:5, 4:9] = 255
    Image.fromarray(mask).save(path)


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def codes(source: Source) -> dict[str, int]:
    return dict(Counter(each.code for each in source.quarantined))


@pytest.fixture
def read(tmp_path: Path) -> Callable[[], Source]:
    """Reads tmp_path; what comes out for people must not hold the name that files and texts hold."""

    def read_here() -> Source:
        source = read_source(str(tmp_path), OPTIONS)
        assert HIDDEN.lower() not in f"{source.quarantined}{source.layouts}{source.records}".lower()
        indices = sorted([each.index for each in source.records] + [each.index for each in source.quarantined])
        assert indices == list(range(source.num_items)), "each item and orphan has one index"
        return source

    return read_here
