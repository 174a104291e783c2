"""A browser for the tests of the page."""

from collections.abc import Iterator

import pytest

from tests.serve.browser import chromium


@pytest.fixture(scope="package")
def devtools(tmp_path_factory) -> Iterator[str]:
    with chromium(tmp_path_factory.mktemp("chromium")) as devtools:
        yield devtools
