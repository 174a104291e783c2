"""The frame of every report: one template, one style sheet, one jinja environment."""

import base64
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from sa2va_ray.pictures import palette

_FOLDER = Path(__file__).parent
_WEBP_QUALITY = 80


def build_environment(folder: Path, is_html: bool) -> jinja2.Environment:
    """Templates of `folder`, and those here that they extend. A name that has no value is an error.

    Args:
        is_html: whether every text is escaped; Markdown is not HTML.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, _FOLDER]),
        autoescape=is_html,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render_page(template: Path, filters: Mapping[str, Callable], values: Mapping[str, Any]) -> bytes:
    """A template that extends `page.html.jinja`, as one HTML file that needs nothing else: no network, no script.

    Args:
        filters: the template's own, beside `number` (1234 -> 1,234) and `data_uri` (of RGB uint8 pixels).
    """
    environment = build_environment(template.parent, is_html=True)
    environment.filters.update(filters, number=number, data_uri=_data_uri)
    page = environment.get_template(template.name)
    return page.render(values, light=palette.LIGHT, dark=palette.DARK).encode()


def number(value: int) -> str:
    """1234 -> 1,234."""
    return f"{value:,}"


def _data_uri(pixels: np.ndarray) -> str:
    """WebP, made from pixels alone, so that no metadata of a source can come along."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="WEBP", quality=_WEBP_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
