import json
import logging.handlers
import pickle

from sa2va_ray.serve.problems import Problem, as_problem
from sa2va_ray.telemetry import LOGGER


def test_the_reply_has_cause_cure_and_request():
    reply = Problem(415, "Not an image", "The data is no image.", "Send a PNG.").response("r1")
    assert reply.status_code == 415
    assert reply.headers["content-type"] == "application/problem+json"
    assert not {"retry-after", "www-authenticate"} & set(reply.headers)
    assert json.loads(reply.body) == {
        "type": "about:blank",
        "title": "Not an image",
        "status": 415,
        "detail": "The data is no image.",
        "cure": "Send a PNG.",
        "request_id": "r1",
    }


def test_headers_that_go_with_a_status():
    assert Problem(429, "Too many", "d", "c", retry_after_s=7).response().headers["retry-after"] == "7"
    assert Problem(401, "No key", "d", "c").response().headers["www-authenticate"] == "Bearer"


def test_it_survives_the_way_between_two_processes():
    problem = pickle.loads(pickle.dumps(Problem(503, "Busy", "All are busy.", "Wait.", 3)))
    assert (problem.document(), problem.retry_after_s) == (Problem(503, "Busy", "All are busy.", "Wait.").document(), 3)
    assert str(problem) == "All are busy."


def test_the_log_of_a_fault_has_its_place_and_nothing_of_the_request():
    handler = logging.handlers.BufferingHandler(10)
    LOGGER.addHandler(handler)
    try:
        int("Mustermann")
    except ValueError as error:
        problem = as_problem(error, "r1")
    finally:
        LOGGER.removeHandler(handler)
    (record,) = handler.buffer
    said = record.getMessage() + str(problem.document())
    assert (problem.status, "Mustermann" in said.replace('int("Mustermann")', "")) == (500, False)
    assert "r1 ended in a ValueError" in said
    assert "test_problems.py" in said
