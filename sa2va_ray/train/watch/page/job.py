"""What the driver writes of a run: its page while workers are waited for, and how it ended."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.storage import StorageError
from sa2va_ray.telemetry import LOGGER
from sa2va_ray.train.checkpoints.lock import LockLostError, check_owner
from sa2va_ray.train.watch.history import read_history
from sa2va_ray.train.watch.page.record import RunRecord, read_pictures
from sa2va_ray.train.watch.page.run_page import PAGE_FILE
from sa2va_ray.train.watch.page.state import RunState
from sa2va_ray.train.watch.run_facts import read_run_facts, write_run_facts


@contextmanager
def page_of_job(run_uri: str, facts: Mapping[str, Any], lock_owner: str) -> Iterator[None]:
    """While a run is trained: says before that its workers are waited for, and afterwards how it ended. What lies
    between is written by the first worker. A store that does not answer changes nothing about the run.

    Args:
        facts: those of `run.json` that are known before it is there.
        lock_owner: id of the job that holds the run's lock; the page of another's run is left alone.
    """
    LOGGER.info("page of the run: %s   look at it: sa2va-ray open %s", storage.join(run_uri, PAGE_FILE), run_uri)
    _write(run_uri, facts, lock_owner, RunState.WAITING)
    state, message = RunState.FAILED, "The cause is in the job's log."
    try:
        yield
        state, message = RunState.ENDED, ""
    except UserError as error:
        message = str(error)
        raise
    except KeyboardInterrupt:
        state, message = RunState.STOPPED, ""
        raise
    except SystemExit:  # made of SIGTERM, which `ray job stop` sends
        state, message = RunState.STOPPED, ""
        LOGGER.info(
            "stopped. The same job, started again, goes on from the newest checkpoint of the run; without one yet "
            "(save_every_steps) it begins anew."
        )
        raise
    finally:
        _write(run_uri, facts, lock_owner, state, message)


def _write(run_uri: str, facts: Mapping[str, Any], lock_owner: str, state: RunState, message: str = "") -> None:
    try:
        check_owner(run_uri, lock_owner)
        stored = read_run_facts(run_uri)
        record = RunRecord(run_uri, {**facts, **stored}, read_history(run_uri), read_pictures(run_uri))
        record.set_state(state, message=message)
        if stored:
            write_run_facts(run_uri, record.facts)
        record.write_page()
    except (StorageError, LockLostError) as error:
        LOGGER.warning("the page of the run does not say that it is %s: %s", state, error)
