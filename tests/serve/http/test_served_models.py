"""What an ingress takes up of a model's manifest while it serves, and what it only tells."""

import asyncio
import logging
import threading
import time
from pathlib import Path

import pytest

from sa2va_ray.models.model_manifest import MODEL_MANIFEST, update_model_manifest, write_model_manifest
from sa2va_ray.predict.cleanup import NO_CLEANUP, CleanupConfig
from sa2va_ray.serve.config import ServeArgs
from sa2va_ray.serve.http import served_models
from sa2va_ray.serve.http.protocol import ModelInfo
from sa2va_ray.serve.http.served_models import ServedModels
from sa2va_ray.telemetry import LOGGER


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "weights").write_text("first")
    write_model_manifest(tmp_path, {"threshold": 0.5})
    return tmp_path


@pytest.fixture
def served(folder, caplog, monkeypatch) -> ServedModels:
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level(logging.INFO, LOGGER.name)
    args = ServeArgs(models={"tiny": {"uri": str(folder)}})
    sha256 = write_model_manifest(folder, {"threshold": 0.5})
    info = ModelInfo(
        name="tiny",
        sha256=sha256,
        threshold=0.5,
        cleanup=NO_CLEANUP,
        default_prompt="a",
        limits=args.limits,
        stored_sha256=sha256,
    )
    return ServedModels({"tiny": info}, args)


def look(served: ServedModels) -> ModelInfo:
    asyncio.run(served.look_again())
    return served.info(None)


def test_a_new_calibration_is_taken_up_whole_and_told_once(served, folder, caplog):
    before = look(served)
    assert not caplog.messages, "nothing has changed"
    update_model_manifest(folder, {"threshold": 0.31, "cleanup": {"min_component_px": 7}})
    now = look(served)
    assert (now.threshold, now.cleanup) == (0.31, CleanupConfig(min_component_px=7))
    assert (now.sha256, now.stored_sha256) == (before.sha256, before.sha256)
    assert (before.threshold, before.cleanup) == (0.5, NO_CLEANUP), "a request that has begun keeps what it had"
    look(served)
    (line,) = caplog.messages
    assert "tiny was calibrated anew: threshold 0.3100 (was 0.5000)" in line
    assert served.notices() == []


def test_other_weights_are_told_and_not_served_nor_is_their_calibration(served, folder, caplog):
    (folder / "weights").write_text("second")
    other = write_model_manifest(folder, {"threshold": 0.2})
    now = look(served)
    assert (now.threshold, now.stored_sha256) == (0.5, other)
    assert now.sha256 != other
    look(served)
    (warning,) = caplog.messages
    assert other[:12] in warning
    assert "`sa2va-ray deploy`" in warning
    (notice,) = served.notices()
    assert now.sha256[:12] in notice
    assert other[:12] in notice
    assert str(folder) not in notice
    (folder / "weights").write_text("first")
    write_model_manifest(folder, {"threshold": 0.5})
    look(served)
    assert served.notices() == []
    assert "lies at its URI as it is served" in caplog.messages[-1]


@pytest.mark.parametrize("content", [None, b"{", b'{"files": {}, "cleanup": 1}', {"threshold": 3}])
def test_what_cannot_be_read_changes_nothing_and_is_told_once(served, folder, caplog, content):
    if isinstance(content, dict):
        update_model_manifest(folder, content)
    elif content is None:
        (folder / MODEL_MANIFEST).unlink()
    else:
        (folder / MODEL_MANIFEST).write_bytes(content)
    assert [(look(served).threshold, look(served).stored_sha256) for _ in range(2)] == [(0.5, None)] * 2
    assert len(caplog.messages) == 1
    assert "cannot be read" in caplog.messages[0]
    assert served.notices() == []


def test_a_store_that_does_not_answer_is_not_waited_for_in_the_health_check(served, monkeypatch):
    monkeypatch.setattr(served_models, "_WAIT_S", 0.05)
    looks, answers = [], threading.Event()

    def silent(before: ModelInfo, uri: str) -> ModelInfo:
        looks.append(uri)
        answers.wait(60)
        return before

    monkeypatch.setattr(served_models, "_stored", silent)

    async def check_health_three_times() -> None:
        for _ in range(3):
            await served.look_again()
        answers.set()

    started_s = time.monotonic()
    asyncio.run(check_health_three_times())
    assert time.monotonic() - started_s < 60, "the store was waited for"
    assert len(looks) == 1, "one look at a time"
