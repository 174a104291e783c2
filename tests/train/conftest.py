"""Runs of seconds as processes of their own."""

from collections.abc import Callable, Iterator

import pytest
import torch.distributed as dist

from tests.train.runs import Run


@pytest.fixture(scope="module")
def one_rank() -> Iterator[None]:
    """The test's own process as the only rank."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def runs_uri(tiny_run: list[str]) -> str:
    """Folder of the runs that `start_run` starts."""
    return next(argument for argument in tiny_run if argument.startswith("runs_uri=")).partition("=")[2]


@pytest.fixture(scope="module")
def start_run(tiny_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Run]]:
    """Starts the tiny run with further settings, in the environment as it is then. What still runs is ended."""
    folder, runs = tmp_path_factory.mktemp("runs"), []

    def start(*settings: str) -> Run:
        runs.append(Run([*tiny_run, *settings], folder))
        return runs[-1]

    yield start
    for run in runs:
        run.stop()
