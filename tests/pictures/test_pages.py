"""The frame that all reports share."""

import base64
import io
import re

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from sa2va_ray.pictures.pages import render_page
from sa2va_ray.pictures.sheet import Picture

TEMPLATE = '{% extends "page.html.jinja" %}{% import "parts.jinja" as parts with context %}'


@pytest.fixture
def page(tmp_path):
    def render(content, **values):
        template = tmp_path / "report.html.jinja"
        template.write_text(f"{TEMPLATE}{{% block content %}}{content}{{% endblock %}}")
        return render_page(template, {}, values).decode()

    return render


def test_pictures_are_made_from_pixels_alone(page):
    html = page("{{ parts.gallery([picture]) }}", picture=Picture("<a caption>", np.full((10, 20, 3), 9, np.uint8)))
    with Image.open(io.BytesIO(base64.b64decode(re.search(r'base64,([^"]+)"', html)[1]))) as shown:
        assert (shown.format, shown.size) == ("WEBP", (20, 10))
        assert not {"exif", "icc_profile", "xmp"} & shown.info.keys()
    assert "<a caption>" not in html
    assert html.count("&lt;a caption&gt;") == 2


def test_keys_in_backticks_are_code_and_nothing_else_is_markup(page):
    html = page("<p>{{ text | prose }}</p>", text="See `pairs` and `<b>`; 5` wide.")
    assert "<p>See <code>pairs</code> and <code>&lt;b&gt;</code>; 5` wide.</p>" in html


def test_every_colour_is_a_variable_of_both_screens(page):
    html = page("")
    assert html.count("--one: #") == html.count("--bad-back: #") == 2
    used = set(re.findall(r"var\(--([\w-]+)", html))
    defined = set(re.findall(r"--([\w-]+):", html))
    assert used <= defined | {"its", "least", "highest"}


def test_a_name_without_a_value_is_an_error(page):
    with pytest.raises(UndefinedError):
        page("{{ missing }}")
