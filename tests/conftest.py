"""What the tests stand on: one S3 store and one Ray cluster for the whole session, both real."""

import os
import re
import secrets
from collections.abc import Iterator

# Ray reads its authentication mode when it is first imported, which is before any fixture runs.
os.environ["RAY_AUTH_MODE"] = "token"

import psutil
import pytest
import ray

from sa2va_ray.demo.stack import Stack

BUCKET = "tests"


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A store and a Ray head of 4 CPUs. This process's environment is that of a client of both."""
    with Stack(tmp_path_factory.mktemp("stack")) as stack:
        stack.start_store(BUCKET)
        stack.start_ray(num_cpus=4)
        runtime_dir = stack.runtime_dir
        with stack.applied_env():
            yield stack
    left = [p.info for p in psutil.process_iter(["pid", "cmdline"]) if runtime_dir in " ".join(p.info["cmdline"] or [])]
    assert not left, f"processes outlived the stack: {left}"


@pytest.fixture
def bucket_uri(stack: Stack, request: pytest.FixtureRequest) -> str:
    """A folder in the store that no other test uses."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    return f"s3://{BUCKET}/{name}-{secrets.token_hex(4)}"


@pytest.fixture(scope="session")
def ray_cluster(stack: Stack) -> Iterator[None]:
    """This process as a driver of the session's Ray cluster."""
    ray.init(address=stack.ray_address)
    yield
    ray.shutdown()
