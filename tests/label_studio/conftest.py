from collections.abc import Iterator

import pytest

from tests.label_studio.fake import LEGACY, FakeLabelStudio, running


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLabelStudio]:
    """A server that takes the legacy token in LABEL_STUDIO_TOKEN."""
    monkeypatch.setenv("LABEL_STUDIO_TOKEN", LEGACY)
    with running() as server:
        yield server
