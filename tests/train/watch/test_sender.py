"""What is sent in the background arrives, also what comes while the last sending goes on."""

import logging
import threading

import pytest

from sa2va_ray.storage import StorageError
from sa2va_ray.telemetry import LOGGER
from sa2va_ray.train.watch.sender import Sender


def test_what_comes_during_a_sending_goes_right_after_it():
    news, sent, begun, may_end = ["one"], [], threading.Event(), threading.Event()

    def send():
        sent.append(list(news))
        begun.set()
        may_end.wait(60)

    sender = Sender("news", 3600.0, send)
    sender.offer()
    assert begun.wait(60)
    news.append("two")
    sender.offer()  # too soon
    assert not sender.wait(0.01)
    sender.send()
    may_end.set()
    assert sender.wait(60)
    assert sent == [["one"], ["one", "two"]]


@pytest.fixture
def logged():
    """The messages of this test. Not `caplog`: what other tests have imported can hang its handler into the tree of
    loggers a second time."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    LOGGER.addHandler(handler)
    yield messages
    LOGGER.removeHandler(handler)


def test_nothing_that_goes_wrong_reaches_the_caller_and_it_is_told_once(logged):
    errors, sent = [StorageError("no answer"), StorageError("no answer"), KeyError("bug")], []

    def fail():
        if errors:
            raise errors.pop(0)

    sender = Sender("news", 0.0, fail, lambda: sent.append(1))
    for _ in range(4):
        sender.send()
        assert sender.wait(60)
    assert len(sent) == 4
    assert [line for line in logged if line.startswith("news")] == [
        "news are sent again later: no answer",
        "news could not be sent",
    ]
