"""Where an export is made before anybody sees it."""

import errno
import logging
import os

import pytest
from safetensors import SafetensorError

from sa2va_ray.config import UserError
from sa2va_ray.export.target import check_target, staging_folder
from sa2va_ray.telemetry import LOGGER


@pytest.mark.parametrize(
    ("out", "told"),
    [("link", "out= takes a folder"), ("/dev/null", "out= takes a folder"), ("a" * 300, "name too long")],
)
def test_what_no_folder_can_take_the_place_of_is_refused(tmp_path, out, told):
    """A link to nothing, and a device, were found out behind the work."""
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(UserError, match=told):
        check_target(str(tmp_path / out))


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
    assert {record.getMessage().partition(" is there")[0] for record in caplog.records} == {str(left)}
    assert not folder.exists()


@pytest.mark.parametrize(
    ("error", "is_told"),
    [
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), True),
        (OSError(errno.EIO, os.strerror(errno.EIO)), False),
    ],
)
def test_a_disk_that_becomes_full_is_told(tmp_path, error, is_told):
    """The room that is there at the start may be gone when 16 GB have been written."""
    with (
        pytest.raises(UserError if is_told else OSError, match="became full while" if is_told else "output error"),
        staging_folder(str(tmp_path / "model")),
    ):
        raise error
    assert list(tmp_path.iterdir()) == []
