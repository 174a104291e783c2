"""What the tests stand on: one S3 store and one Ray cluster for the whole session, both real."""

import os
import re
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

# Ray reads its authentication mode when it is first imported, which is before any fixture runs.
os.environ["RAY_AUTH_MODE"] = "token"
# The real Label Studio of `make soak` takes it; endpoints get it with the environment of the session's Ray.
os.environ.setdefault("LABEL_STUDIO_TOKEN", secrets.token_hex(20))

import psutil
import pytest
import ray

from sa2va_ray.demo.stack import SCRIPTS_DIR, Stack
from sa2va_ray.demo.synthetic import write_synthetic_dataset
from sa2va_ray.export.config import ExportConfig
from sa2va_ray.export.run import export
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.identity.pseudonym_key import KEY_VARIABLE
from sa2va_ray.prepare.run import prepare

pytest_plugins = ["tests.marks", "tests.label_studio.fake"]

ROOT = Path(__file__).parent.parent
BUCKET = "tests"
TINY_RUN = [  # the demo's run, smaller still
    "jobs/configs/demo.yaml",
    "model.architecture.grounding_config.image_size=128",
    "loss.num_points=512",
    "repeats=1",
    "log_every_steps=1",
    "save_every_steps=500",  # at the end
    "validation.every_steps=500",
]


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


@pytest.fixture(scope="session")
def submit_job(stack: Stack) -> Callable[..., str]:
    """`ray job submit -- python -m jobs.VERB ARGUMENTS`; returns its output, fails where the job fails."""

    def submit(verb: str, *arguments: str) -> str:
        command = [
            str(SCRIPTS_DIR / "ray"),
            "job",
            "submit",
            "--working-dir",
            ".",
            "--",
            "python",
            "-m",
            f"jobs.{verb}",
        ]
        done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
        return done.stdout + done.stderr

    return submit


@pytest.fixture(scope="session")
def prepared_uri(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A prepared data set of synthetic images: 9 train, 3 val and 9 test images of 7 patients.

    Nine is one more than two global batches of the tiny run: its last step has a sample for one worker only.
    """
    source, uri = tmp_path_factory.mktemp("synthetic"), f"s3://{BUCKET}/way/data"
    write_synthetic_dataset(source, num_patients=7, frames_per_patient=3, size=128)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, "tests")
        prepare(
            PrepareConfig(source=str(source), out=uri, split={"val_fraction": 0.15, "test_fraction": 0.3, "seed": 4})
        )
    return uri


@pytest.fixture(scope="session")
def tiny_run(prepared_uri: str) -> list[str]:
    """Arguments of `jobs.train` for a run of seconds; `name=` is still to be given."""
    return [*TINY_RUN, f"data_uri={prepared_uri}", f"runs_uri=s3://{BUCKET}/way/runs"]


@pytest.fixture(scope="session")
def trained(submit_job: Callable[..., str], tiny_run: list[str]) -> tuple[str, str]:
    """(URI of a run that was trained by a submitted job, the job's output)."""
    output = submit_job("train", *tiny_run, "name=submitted")
    return f"s3://{BUCKET}/way/runs/submitted", output


@pytest.fixture(scope="session")
def exported_uri(trained: tuple[str, str]) -> str:
    """The exported model of that run."""
    uri = f"s3://{BUCKET}/way/model"
    export(ExportConfig(checkpoint=trained[0], out=uri, name="tiny"))
    return uri
