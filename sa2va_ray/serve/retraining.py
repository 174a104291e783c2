"""Counts what was labelled, and starts a job of Ray when enough has come.

One actor of the cluster counts for all ingresses. Its state is in a file, so that it outlives the actor, the endpoint
and the cluster.
"""

import asyncio
import hashlib
import time
from collections.abc import Iterable
from typing import Any

import ray
from pydantic import BaseModel, Field, ValidationError
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError
from ray.job_submission import JobSubmissionClient
from ray.runtime_env import RuntimeEnv

from sa2va_ray import storage
from sa2va_ray.cluster.streams import user_message
from sa2va_ray.config import Config, UserError
from sa2va_ray.serve.problems import Problem
from sa2va_ray.storage import KeptUri
from sa2va_ray.telemetry import LOGGER, configure_logging

_NAMESPACE = "sa2va_ray"
_TRIES, _PAUSE_S = 20, 0.25  # until the name of an actor that has ended is free
_ANSWERS_WITHIN_S = 300.0  # the working directory of a job is sent meanwhile
_RETRY_AFTER_S = 60
_MOST_ANNOTATIONS = 100_000
_TELL = "Tell whoever runs this endpoint: its log says why."


class NotCounted(Problem):
    """The file that holds the count may not have been written."""


class NotStartedError(UserError):
    """A job could not be started; the annotations are counted, and wait for the next one."""


class RetrainConfig(Config):
    """A job that starts by itself when people have labelled enough."""

    retrain_after: int = Field(gt=0, le=_MOST_ANNOTATIONS)
    """New annotations after which the job starts."""
    entrypoint: str = Field(min_length=1, max_length=10_000)
    """Shell command of the job, as behind `ray job submit --`. It should end by itself."""
    state_uri: KeptUri
    """JSON file for the count: on a store, or on a disk that all machines of the cluster have in the same place. Each
    endpoint its own."""
    runtime_env: dict[str, Any] = Field(default_factory=dict)
    """Ray's runtime environment of the job: `working_dir`, `env_vars`, ..."""


class _State(BaseModel):
    """Attributes:
    ids: of the annotations that were counted since the last job.
    num_untold: annotations since then whose number was not told.
    submitting: id of a job that may have been submitted, and whose annotations are these.
    """

    ids: list[int] = []
    num_untold: int = Field(0, ge=0)
    submitting: str | None = None

    @property
    def count(self) -> int:
        return len(self.ids) + self.num_untold


def check_state(config: RetrainConfig) -> None:
    """
    Raises:
        UserError: a place that cannot be written to, a file that is no state, or a runtime environment that Ray does
            not take.
    """
    storage.check_writable(config.state_uri.rpartition("/")[0])
    _read_state(config.state_uri)
    _check_environment(config.runtime_env)


def _check_environment(environment: dict[str, Any]) -> None:
    variables = environment.get("env_vars")
    if isinstance(variables, dict) and (wrong := [name for name, value in variables.items() if type(value) is not str]):
        raise UserError(
            f"retrain.runtime_env.env_vars: the values of {', '.join(map(str, wrong))} are no texts; write them in "
            "quotes."
        )
    try:
        RuntimeEnv(**environment)
    except (TypeError, ValueError) as error:
        raise UserError(f"Ray does not take retrain.runtime_env: {error}") from None


class RetrainingCounter:
    """An ingress's way to the one actor of the cluster that counts. Whichever ingress comes first owns it; when that
    one ends, so does the actor, and another is started, which goes on from the file."""

    def __init__(self, config: RetrainConfig):
        self._config = config
        self._actor: Any = None
        self._told: list[int | None] = []  # and not asked for yet
        self._next: asyncio.Task[dict[str, Any]] | None = None  # which will ask for these
        self._turn = asyncio.Lock()

    async def tell(self, annotations: Iterable[int | None]) -> dict[str, Any]:
        """As `count`, together with all that is told while the actor is busy, and also where the caller goes away:
        Label Studio waits for a second, and does not tell again."""
        self._told += annotations
        self._next = self._next or asyncio.create_task(self._count_all())
        return await asyncio.shield(self._next)

    async def _count_all(self) -> dict[str, Any]:
        async with self._turn:
            told, self._told, self._next = self._told, [], None
            try:
                return await asyncio.to_thread(self.count, told)
            except NotCounted:  # with the next ones; as many as the actor would keep
                self._told = [*told, *self._told][:_MOST_ANNOTATIONS]
                raise

    def count(self, annotations: Iterable[int | None]) -> dict[str, Any]:
        """As `Retraining.count`. To be called in a thread: it waits.

        Raises:
            NotCounted: the actor or the file do not answer.
            Problem: they are counted, and no job could be started.
        """
        told = list(annotations)
        for _ in range(_TRIES):
            try:
                self._actor = self._actor or self._find()
                return ray.get(self._actor.count.remote(self._config, told), timeout=_ANSWERS_WITHIN_S)
            except (ActorDiedError, ActorUnavailableError):
                self._actor = None
                time.sleep(_PAUSE_S)
            except NotStartedError as error:
                LOGGER.error("retraining: %s", user_message(error))
                detail = "The annotations are counted, but no job could be started."
                raise Problem(503, "Not ready", detail, _TELL, _RETRY_AFTER_S) from None
            except RayError as error:
                LOGGER.error("retraining: %s", user_message(error) or type(error).__name__)
                break
        detail = "The annotations wait to be counted with the next ones."
        raise NotCounted(503, "Not ready", detail, _TELL, _RETRY_AFTER_S)

    def _find(self) -> Any:
        name = _actor_name(self._config)
        options = {"name": name, "namespace": _NAMESPACE, "get_if_exists": True}
        return Retraining.options(**options).remote()  # type: ignore[attr-defined]


@ray.remote(num_cpus=0)
class Retraining:
    """Does one thing at a time, so that never two jobs are started for the same annotations."""

    def __init__(self) -> None:
        configure_logging()

    def count(self, config: RetrainConfig, annotations: list[int | None]) -> dict[str, Any]:
        """Counts annotations, each number once, and starts the job where they are enough and the last one has ended.

        Returns:
            `annotations` since the last job, `retrain_after`, and `job`: the one that was started, or None.

        Raises:
            NotStartedError: Ray's jobs do not answer, or do not take this one.
            UserError: what the file holds is none of ours, or its store does not answer.
        """
        state = _read_state(config.state_uri)
        known = set(state.ids)
        new = [each for each in dict.fromkeys(annotations) if each is not None and each not in known]
        untold = sum(each is None for each in annotations)
        room = max(0, _MOST_ANNOTATIONS - state.count)
        state = _State(
            ids=[*state.ids, *new[:room]],
            num_untold=state.num_untold + min(untold, max(0, room - len(new))),
            submitting=state.submitting,
        )
        _write_state(config.state_uri, state)  # before anything that may fail
        try:
            job = self._start(config, state) if state.count >= config.retrain_after else None
        except (OSError, RuntimeError, ValueError) as error:  # what was counted waits for the next annotation
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise NotStartedError(
                f"A job could not be submitted: {reason} Check that Ray's dashboard runs, and retrain.runtime_env."
            ) from None
        if job:
            state = _State()
            _write_state(config.state_uri, state)
        return {"annotations": state.count, "retrain_after": config.retrain_after, "job": job}

    def _start(self, config: RetrainConfig, state: _State) -> str | None:
        """Its id is written down first: a job that was submitted before an actor died is found, and not submitted
        again."""
        client = JobSubmissionClient(ray.get_runtime_context().gcs_address)
        prefix = f"sa2va-retrain-{_name_of(config.state_uri)}-"
        jobs = {job.submission_id or "": job.status for job in client.list_jobs()}
        own = {name: status for name, status in jobs.items() if name.startswith(prefix)}
        if state.submitting in own:
            return state.submitting
        if running := [name for name, status in own.items() if not status.is_terminal()]:
            LOGGER.info("retraining: %d new annotations wait until %s has ended", state.count, running[0])
            return None
        job = f"{prefix}{1 + max((int(name.removeprefix(prefix)) for name in own), default=0)}"
        _write_state(config.state_uri, state.model_copy(update={"submitting": job}))
        client.submit_job(entrypoint=config.entrypoint, submission_id=job, runtime_env=config.runtime_env or None)
        LOGGER.info("retraining: %d new annotations, started job %s", state.count, job)
        return job


def _actor_name(config: RetrainConfig) -> str:
    return f"retraining {config.state_uri}"


def _name_of(uri: str) -> str:
    """Eight digits that tell jobs of several endpoints apart."""
    return hashlib.sha256(uri.encode()).hexdigest()[:8]


def _read_state(uri: str) -> _State:
    if not storage.exists(uri):
        return _State()
    try:
        return _State.model_validate_json(storage.read_bytes(uri))
    except (FileNotFoundError, ValidationError):  # a folder, or something else
        raise UserError(
            f"{uri} is no state of retraining, whose JSON has ids, num_untold and submitting. Give retrain.state_uri "
            "another place, or delete the file to count from 0."
        ) from None


def _write_state(uri: str, state: _State) -> None:
    storage.write_bytes(uri, f"{state.model_dump_json()}\n".encode())
