"""An S3 store (SeaweedFS) and a Ray head on this machine, for `make demo` and for the tests.

Both get free ports and secrets of their own, so that several stacks and other Ray clusters live side by side. What a
stack started is recorded in `STATE_DIR/stack.json`, by which a later process can stop it.
"""

import fcntl
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from sa2va_ray.config import UserError
from sa2va_ray.demo.processes import Process, end_with_descendants
from sa2va_ray.storage import check_writable

SCRIPTS_DIR = Path(sysconfig.get_path("scripts"))
"""Where this Python's environment keeps `weed`, `ray`, `serve` and `python`."""
STORE_DIR = "store"
"""Of `state_dir`: what lies in the store, also when it is stopped."""

_DASHBOARD_PORT = 8265  # Ray's default, which users know
_START_LIMIT_S = 120.0  # a Ray head takes 5 s on a free machine; 47 s were seen on a busy one
_LOG_TAIL_LINES = 15


@dataclass
class Stack:
    """The processes of one state directory. As a context manager it stops them at the end."""

    state_dir: Path
    """Holds the store's data, the logs and `stack.json` (mode 0600: it has the secrets)."""
    env: dict[str, str] = field(default_factory=dict)
    """What a client process needs in its environment: the addresses and secrets of what has been started."""
    processes: list[Process] = field(default_factory=list)
    runtime_dir: str = ""
    """For sockets and Ray's session. Below /tmp, since a socket's path may have 107 characters; removed at stop."""

    @classmethod
    def load(cls, state_dir: Path) -> Self:
        """The stack recorded in a state directory; one without processes where nothing is recorded."""
        file = _state_file(state_dir)
        if not file.is_file():
            return cls(state_dir)
        state = json.loads(file.read_text())
        processes = [Process(*values) for values in state.pop("processes")]
        return cls(state_dir, processes=processes, **state)

    @property
    def dashboard_url(self) -> str:
        """For the browser, `ray job submit` and `serve deploy`."""
        return self.env["RAY_API_SERVER_ADDRESS"]

    @property
    def ray_address(self) -> str:
        """For `ray.init` and `serve run`."""
        return self.env["RAY_ADDRESS"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    @contextmanager
    def applied_env(self) -> Iterator[None]:
        """Makes this process a client: `env` is laid over its environment until the end of the `with` block."""
        before = {name: os.environ.get(name) for name in self.env}
        os.environ.update(self.env)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value

    def start_store(self, bucket: str) -> None:
        """Starts the S3 store and makes the bucket. Returns when an object can be written.

        Raises:
            UserError: the store is running already, or did not come up; with the end of its log.
        """
        self._prepare("store")
        master, volume, filer, s3, admin = _free_ports(5)
        self.env |= {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}",
            "AWS_ACCESS_KEY_ID": secrets.token_hex(10),
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",  # else a client without keys waits for Amazon's metadata service
        }
        command = [
            *(str(SCRIPTS_DIR / "weed"), "mini", f"-dir={_made(self.state_dir / STORE_DIR)}", f"-bucket={bucket}"),
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"),
            # Each service takes its gRPC port 10000 above.
            *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"),
            *(f"-s3.port={s3}", f"-admin.port={admin}"),
            *(f"-s3.localSocket={self.runtime_dir}/s3.sock", f"-filer.localSocket={self.runtime_dir}/filer.sock"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false"),
        ]
        # Without limits its memory grows to 0.8 GiB on the first 0.5 GiB written.
        limits = {"GOMEMLIMIT": "400MiB", "GOGC": "50"}
        self._start("store", command, {**os.environ, **self.env, **limits}, lambda: self._check_store(bucket))

    def start_ray(self, num_cpus: int, object_store_mib: int = 512) -> None:
        """Starts a Ray head that hands the store's environment to its jobs. Returns when it takes jobs.

        Raises:
            UserError: Ray is running already, or did not come up; with the end of its log.
        """
        self._prepare("ray")
        with _dashboard_port() as dashboard:
            self._start_head(dashboard, num_cpus, object_store_mib)

    def _start_head(self, dashboard: int, num_cpus: int, object_store_mib: int) -> None:
        gcs, client, agent_http, agent_grpc, runtime_env, metrics, autoscaler, head = _free_ports(8)
        self.env |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",  # drivers do not see the head's option; Ray Data has an actor for it
            "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # GET /api/train/v2/runs/v1 lists training runs
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # each `ray.train.report` waits for one, 2 s by default
            "RAY_JOB_STOP_WAIT_TIME_S": "30",  # before SIGKILL: Ray's 3 s are too few to say on a store how a run ended
            "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",  # images go to replicas directly: docs/en/serve_reference.md
            "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1),  # gRPC's own, 4 MiB, cuts replies off
        }
        command = [
            *(str(SCRIPTS_DIR / "ray"), "start", "--head", "--block", "--disable-usage-stats", "--log-color=false"),
            *(f"--num-cpus={num_cpus}", f"--object-store-memory={object_store_mib * 2**20}"),
            *(f"--temp-dir={self.runtime_dir}/ray", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
            *(f"--port={gcs}", f"--ray-client-server-port={client}", f"--metrics-export-port={metrics}"),
            *(f"--dashboard-agent-listen-port={agent_http}", f"--dashboard-agent-grpc-port={agent_grpc}"),
            f"--runtime-env-agent-port={runtime_env}",
        ]
        ports = {"AUTOSCALER_METRIC_PORT": str(autoscaler), "DASHBOARD_METRIC_PORT": str(head)}
        environment = {**_environ_without_ray(), **self.env, **ports}
        # The addresses are for clients: a cluster that inherits RAY_ADDRESS hands it on to its workers.
        url = f"http://127.0.0.1:{dashboard}"
        self.env |= {
            "RAY_API_SERVER_ADDRESS": url,  # ray job
            "RAY_DASHBOARD_ADDRESS": url,  # serve deploy, status, shutdown
            "RAY_ADDRESS": f"127.0.0.1:{gcs}",  # ray.init, serve run
        }
        self._start("ray", command, environment, self._check_ray)

    def stop(self) -> None:
        """Ends the recorded processes and all their descendants, and nothing else; fine where nothing runs."""
        end_with_descendants(filter(None, (process.find() for process in self.processes)))
        if self.runtime_dir:
            shutil.rmtree(self.runtime_dir, ignore_errors=True)
        _state_file(self.state_dir).unlink(missing_ok=True)
        self.env, self.processes, self.runtime_dir = {}, [], ""

    def _prepare(self, name: str) -> None:
        running = [process for process in Stack.load(self.state_dir).processes if process.find()]
        if any(process.name == name for process in running):
            raise UserError(f"{self.state_dir} has a {name} running (pid {running[0].pid}): stop that stack first.")
        self.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.runtime_dir = self.runtime_dir or tempfile.mkdtemp(prefix="sa2va-", dir="/tmp")

    def _start(self, name: str, command: list[str], environment: dict[str, str], check: Callable[[], None]) -> None:
        log = self.state_dir / f"{name}.log"
        with log.open("wb") as output:
            # In a session of its own, so that Ctrl-C reaches us, who then stop it in order.
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        root = psutil.Process(process.pid)
        self._record(name, [root])
        _wait_ready(name, process, log, check)
        # Recorded too, to be found when their parent has crashed.
        self._record(f"{name} child", root.children(recursive=True))

    def _record(self, name: str, processes: Iterable[psutil.Process]) -> None:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                self.processes.append(Process.of(name, process))
        state = asdict(self)
        del state["state_dir"]
        file = _state_file(self.state_dir)
        file.touch(mode=0o600)
        file.write_text(json.dumps(state, indent=2))

    def _check_store(self, bucket: str) -> None:
        with self.applied_env():
            check_writable(f"s3://{bucket}")

    def _check_ray(self) -> None:
        self._get("/api/jobs/")
        # The dashboard answers some seconds before there is a node to run a job on.
        if '"ALIVE"' not in self._get("/api/v0/nodes"):
            raise ConnectionError("no node is alive yet")

    def _get(self, path: str) -> str:
        headers = {"Authorization": f"Bearer {self.env['RAY_AUTH_TOKEN']}"}
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(self.dashboard_url + path, headers=headers), timeout=10) as reply:
            return reply.read().decode()


def _state_file(state_dir: Path) -> Path:
    return state_dir / "stack.json"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _environ_without_ray() -> dict[str, str]:
    """This process's environment for a new cluster: nothing of another cluster in it, and our `python` first."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return environment | {"PATH": f"{SCRIPTS_DIR}:{os.environ['PATH']}"}


def _free_ports(count: int) -> list[int]:
    """Ports that are free together with the one 10000 above.

    Ray gives 10002 to 19999 to its workers, the kernel 32768 and up to outgoing connections: both ports lie between,
    so that neither takes one before the server does.
    """
    candidates = random.sample(range(20_000, 22_768), 1000)
    return list(islice((port for port in candidates if _is_free(port) and _is_free(port + 10_000)), count))


@contextmanager
def _dashboard_port() -> Iterator[int]:
    """Ray's default, but another where something listens on it, or where a stack that is being started is to have it:
    its dashboard listens after seconds, on a busy machine after a minute."""
    with open(f"{tempfile.gettempdir()}/sa2va-dashboard-port-{os.geteuid()}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield _free_ports(1)[0]
        else:
            yield free_port(_DASHBOARD_PORT)


def free_port(preferred: int) -> int:
    """`preferred` where nothing listens on it, else another."""
    return preferred if _is_free(preferred) else _free_ports(1)[0]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True


def _wait_ready(name: str, process: subprocess.Popen[bytes], log: Path, check: Callable[[], None]) -> None:
    deadline_s = time.monotonic() + _START_LIMIT_S
    while True:
        try:
            return check()
        except (UserError, OSError) as error:
            reason = f"is not ready after {_START_LIMIT_S:.0f} s: {error}"
        if process.poll() is not None:
            reason = f"ended with status {process.returncode}"
        elif time.monotonic() < deadline_s:
            time.sleep(0.2)
            continue
        tail = "\n  ".join(log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:])
        raise UserError(f"The {name} {reason}. The end of {log}:\n  {tail}")
