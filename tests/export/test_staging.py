"""Where an export is made before anybody sees it."""

import logging

import pytest

from sa2va_ray.config import UserError
from sa2va_ray.export.target import staging_folder
from sa2va_ray.telemetry import LOGGER


def test_a_place_where_no_folder_can_be_made_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with (
        pytest.raises(UserError, match=r"No folder can be made in .*notes\.txt: .* Set out= or"),
        staging_folder(str(tmp_path / "notes.txt/model")),
    ):
        pass


def test_what_a_killed_export_has_left_is_told(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level(logging.WARNING, LOGGER.name)
    left = tmp_path / ".model [1].0123abcd.partial"
    left.mkdir()
    (tmp_path / ".other.0123abcd.partial").mkdir()
    with staging_folder(str(tmp_path / "model [1]")) as folder:
        assert folder.is_dir()
    assert [record.getMessage().partition(" is there")[0] for record in caplog.records] == [str(left)]
    assert not folder.exists()
