"""The frame of every report: one template, one style sheet, one jinja environment."""

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape  # what jinja2 escapes with

from sa2va_ray.pictures import palette
from sa2va_ray.pictures.sheet import Picture

_FOLDER = Path(__file__).parent


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
        filters: the template's own, beside `number` (1234 -> 1,234), `data_uri` (of a `Picture`), and `prose` (of a
            message, whose words in backticks become code).
    """
    environment = build_environment(template.parent, is_html=True)
    environment.filters.update(filters, number=number, data_uri=_data_uri, prose=_prose)
    page = environment.get_template(template.name)
    return page.render(values, colours=Markup(palette.css_variables())).encode()


def number(value: int) -> str:
    """1234 -> 1,234."""
    return f"{value:,}"


def flatten(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """`a.b` -> value as text: rows of the macro `facts`."""
    for key, value in facts.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def _prose(text: str) -> Markup:
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _data_uri(picture: Picture) -> str:
    return f"data:image/webp;base64,{base64.b64encode(picture.webp).decode()}"
