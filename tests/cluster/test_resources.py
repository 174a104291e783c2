"""What a job wants of a cluster, and what the cluster may have. Run as a script, this file is a job's driver."""

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
import yaml

from sa2va_ray.baselines.config import BaselineConfig
from sa2va_ray.baselines.unet_training import train_unet
from sa2va_ray.cluster import resources
from sa2va_ray.cluster.config import ClusterConfig, PoolConfig
from sa2va_ray.cluster.resources import (
    Capacity,
    check_any_cpu,
    check_cluster,
    check_paths,
    decide_use_gpu,
    least_gpu_bytes,
    pool_arguments,
    read_capacity,
)
from sa2va_ray.config import UserError
from sa2va_ray.demo.stack import SCRIPTS_DIR, free_port
from sa2va_ray.evaluate.config import CalibrateConfig, EvaluateConfig, PassConfig
from sa2va_ray.evaluate.inputs import MeasuredModel, Split
from sa2va_ray.evaluate.passes.answers import answer_questions
from sa2va_ray.export.config import ExportConfig
from sa2va_ray.models.config import BaseConfig
from sa2va_ray.predict.job.batch import map_predictions
from sa2va_ray.predict.job.config import PredictConfig, PredictOptions
from sa2va_ray.telemetry import LOGGER
from sa2va_ray.train import trainer
from sa2va_ray.train.checkpoints.lock import RunLock
from sa2va_ray.train.config import TrainConfig
from tests.train.saved_runs import DATA_MANIFEST, run_config

ROOT = Path(__file__).parents[2]
AUTOSCALER = {  # as cluster.yaml: a head without CPUs, no worker yet
    "cluster_name": "fake",
    "max_workers": 3,
    "provider": {"type": "fake_multinode", "disable_node_updaters": True, "disable_launch_config_check": True},
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 2, "object_store_memory": 10**8}, "node_config": {}, "max_workers": 2},
        "gpu": {"resources": {"CPU": 4, "GPU": 2, "object_store_memory": 10**8}, "node_config": {}, "max_workers": 2},
    },
    "idle_timeout_minutes": 5,
    "upscaling_speed": 1.0,
    "auth": {},
    "docker": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    **{f"{name}_commands": [] for name in ("initialization", "setup", "head_setup", "worker_setup")},
    **{f"{name}_start_ray_commands": [] for name in ("head", "worker")},
}


@pytest.mark.parametrize(
    ("shell", "reason"),
    [
        ({"RAY_AUTH_TOKEN": "wrong"}, "InvalidAuthToken: .* missing or incorrect"),
        ({"RAY_AUTH_TOKEN": "two\nlines"}, "The token has a line break within it, or a character beyond ASCII"),
        ({"RAY_AUTH_MODE": "disabled"}, "no token was sent, since RAY_AUTH_MODE is not `token` in this shell"),
    ],
)
def test_a_cluster_that_does_not_take_the_token_is_told_so(stack, shell, reason):
    """In a process of its own, which has no token yet. Ray itself says after 20 s and more that there is no cluster, or
    dies of a token that no header can hold."""
    environment = {**os.environ, "RAY_ADDRESS": stack.ray_address, **shell}
    code = (
        "import time, atexit; from sa2va_ray.cluster.resources import connect; began = time.monotonic();"
        "atexit.register(lambda: print(time.monotonic() - began)); connect()"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    told = (
        f"UserError: What listens at RAY_ADDRESS=.* does not let this process in: {reason}. The token of this shell is"
    )
    assert re.search(told, done.stderr)
    assert float(done.stdout) < 10


def test_a_file_that_holds_no_token_is_told_so(stack, tmp_path, monkeypatch):
    (tmp_path / "token").write_bytes(b"\xd0\x00")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    environment = {**os.environ, "RAY_ADDRESS": stack.ray_address, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    code = "from sa2va_ray.cluster.resources import connect; connect()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert "does not let this process in: The file of the token is no text." in done.stderr


def as_if(monkeypatch, present, config, num_alive=1, free=None):
    head = {"Alive": True, "NodeID": "head", "Resources": {"node:__internal_head__": 1.0}}
    monkeypatch.setattr(ray, "cluster_resources", lambda: present)
    monkeypatch.setattr(ray, "available_resources", lambda: present if free is None else free)
    monkeypatch.setattr(ray, "nodes", lambda: [head, *[{**head, "Resources": {}}] * (num_alive - 1)])
    monkeypatch.setattr(ray, "get_runtime_context", lambda: type("context", (), {"gcs_address": "address"}))
    monkeypatch.setattr(resources, "_autoscaler_config", lambda address: config)


@pytest.fixture
def lines(caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level(logging.INFO, LOGGER.name)
    return lambda: {record.getMessage() for record in caplog.records}


def test_what_may_be_started_counts(monkeypatch, lines):
    """Three nodes at most: of CPUs two GPU nodes and one CPU node have the most, of GPUs two GPU nodes."""
    as_if(monkeypatch, {}, AUTOSCALER)
    capacity = read_capacity()
    assert (capacity.most["CPU"], capacity.most["GPU"], capacity.num_nodes) == (10, 4, 4)
    check_cluster({"CPU": 10, "GPU": 4}, "cure")
    assert lines() == {"the job waits until the autoscaler has started nodes: it wants 10 CPU (now 0), 4 GPU (now 0)"}
    assert decide_use_gpu(None)
    with pytest.raises(UserError, match=r"wants 11 CPU in all, the cluster has 0 and may start up to 10\. cure"):
        check_cluster({"CPU": 11}, "cure")


def test_without_an_autoscaler_what_is_up_counts(monkeypatch, lines):
    as_if(monkeypatch, {"CPU": 4.0}, {})
    head = {"node:__internal_head__": 1.0}
    assert read_capacity() == Capacity({"CPU": 4.0}, {"CPU": 4.0}, [head], 1)
    check_cluster({"CPU": 4, "GPU": 0}, "cure")
    assert lines() == set()
    with pytest.raises(UserError, match=r"wants 1 GPU in all, the cluster has 0\. .* use_gpu=false"):
        pool_arguments(PoolConfig(use_gpu=True))


def test_kubernetes_may_start_more_than_is_known(monkeypatch, lines):
    """KubeRay's autoscaler asks Kubernetes, and tells nobody: nothing is refused, and nobody waits without a word."""
    as_if(monkeypatch, {"CPU": 4.0}, None)
    assert pool_arguments(PoolConfig(use_gpu=True, num_actors=2, cpus_per_actor=1))["num_gpus"] == 1
    (line,) = lines()
    assert "it wants 2 GPU (now 0), 1 CPU and 1 GPU of one node for each worker or actor (now on none)." in line
    assert "`kubectl get pods`" in line
    assert "Lower num_actors" in line


def test_without_a_gpu_on_kubernetes_it_is_told_that_cpus_are_used(monkeypatch, lines):
    as_if(monkeypatch, {"CPU": 4.0}, None)
    assert not decide_use_gpu(None)
    (line,) = lines()
    assert "use_gpu=true asks for it and waits" in line
    as_if(monkeypatch, {"CPU": 4.0, "GPU": 1.0}, None)
    assert decide_use_gpu(None)


def test_what_is_up_on_kubernetes_is_no_reason_for_words(monkeypatch, lines):
    as_if(monkeypatch, {"CPU": 4.0}, None)
    check_cluster({"CPU": 4.0}, "cure")
    check_any_cpu()
    assert not decide_use_gpu(False)
    assert lines() == set()


@pytest.mark.parametrize(("config", "told"), [(None, "may start more"), (AUTOSCALER, "the autoscaler has started")])
def test_tasks_without_any_cpu_do_not_wait_without_a_word(monkeypatch, lines, config, told):
    as_if(monkeypatch, {}, config)
    check_any_cpu()
    (line,) = lines()
    assert told in line
    as_if(monkeypatch, {}, {})
    with pytest.raises(UserError, match=r"wants 1 CPU in all, the cluster has 0\. Start a node that has CPUs"):
        check_any_cpu()


@pytest.mark.parametrize(
    ("command", "config"),
    [
        ("ulimit -n 65536; ray start --head  --block  --dashboard-host=0.0.0.0  --no-monitor  --num-cpus=0 ", None),
        ("ray start --head  --block  --num-cpus=0 ", {}),  # without `enableInTreeAutoscaling`
    ],
)
def test_a_head_of_kuberay_says_whether_its_autoscaler_runs_beside_it(monkeypatch, command, config):
    monkeypatch.setenv("KUBERAY_GEN_RAY_START_CMD", command)
    assert resources._read_autoscaler_config("nobody:0") == config


def test_who_has_to_wait_for_others_is_told_what_for(monkeypatch, lines):
    as_if(monkeypatch, {"CPU": 2.0}, {}, free={"CPU": 0.5})
    check_cluster({"CPU": 0.5}, "cure")
    assert lines() == set()
    check_cluster({"CPU": 1.0, "GPU": 0.0}, "cure")
    (line,) = lines()
    assert "give back what it wants: 1 CPU (free now: 0.5)." in line


def test_tasks_that_wait_for_a_cpu_say_so(monkeypatch, lines):
    as_if(monkeypatch, {"CPU": 2.0}, {}, free={"CPU": 0.5})
    check_any_cpu()
    assert "waits until other jobs" in "".join(lines())


def test_a_worker_that_fits_on_no_node_is_refused(monkeypatch):
    """Ten CPUs in all, at most four of them on a node."""
    as_if(monkeypatch, {}, AUTOSCALER)
    check_cluster({"CPU": 8, "GPU": 2}, "cure", {"CPU": 4, "GPU": 2})
    with pytest.raises(UserError, match=r"wants 5 CPU and 1 GPU of one node, and no node has .* cure"):
        check_cluster({"CPU": 10, "GPU": 2}, "cure", {"CPU": 5, "GPU": 1})
    with pytest.raises(UserError, match=r"wants 6 CPU of one node"):
        pool_arguments(PoolConfig(cpus_per_actor=6, use_gpu=False))


def test_a_pool_has_an_actor_for_each_gpu_that_is_up(monkeypatch):
    as_if(monkeypatch, {"CPU": 8.0, "GPU": 2.0}, AUTOSCALER)
    arguments = pool_arguments(PoolConfig())
    assert (arguments["compute"].max_size, arguments["num_gpus"]) == (2, 1)
    assert pool_arguments(PoolConfig(num_actors=1))["compute"].max_size == 1
    assert pool_arguments(PoolConfig(use_gpu=False))["compute"].max_size == 1


@pytest.mark.parametrize(
    ("use_gpu", "present", "means"),
    [(None, {}, False), (None, {"GPU": 1.0}, True), (True, {}, True), (False, {"GPU": 8.0}, False)],
)
def test_use_gpu_means_one_thing(monkeypatch, use_gpu, present, means):
    as_if(monkeypatch, present, {})
    assert decide_use_gpu(use_gpu) is means


def test_a_local_path_on_several_nodes_is_refused_unless_it_is_said_to_be_shared(monkeypatch):
    remote, local = {"data_uri": "s3://bucket/data"}, {"data_uri": "/data", "out": "file:///out", "source": None}
    as_if(monkeypatch, {}, {})
    check_paths(ClusterConfig(), **local)
    for cluster_of in (lambda: as_if(monkeypatch, {}, {}, num_alive=2), lambda: as_if(monkeypatch, {}, AUTOSCALER)):
        cluster_of()
        check_paths(ClusterConfig(), **remote)
        check_paths(ClusterConfig(paths_are_shared=True), **local)
        with pytest.raises(UserError, match=r"data_uri=/data, out=file:///out is a path .* may start [24] nodes"):
            check_paths(ClusterConfig(), **local)
    as_if(monkeypatch, {}, None)
    check_paths(ClusterConfig(paths_are_shared=True), **local)
    with pytest.raises(UserError, match=r"is a path .* has or may start several nodes"):
        check_paths(ClusterConfig(), **local)


def test_no_job_waits_for_gpus_that_never_come(monkeypatch, tmp_path):
    as_if(monkeypatch, {"CPU": 4.0}, {})
    split = Split("s3://bucket/data", "val", "d" * 64, "s" * 64, num_images=9)
    settings = PassConfig(model="s3://bucket/model", data_uri="s3://bucket/data", use_gpu=True)
    with pytest.raises(UserError, match="wants 1 GPU in all, the cluster has 0"):  # evaluate and calibrate
        answer_questions(MeasuredModel("s3://bucket/model", {}), split, settings)
    with pytest.raises(UserError, match="wants 2 GPU in all, the cluster has 0"):
        map_predictions(None, "s3://bucket/model", PredictOptions(), PoolConfig(use_gpu=True, num_actors=2))
    unet = BaselineConfig.load(["kind=unet", "name=u", "data_uri=s3://b/data", "out=s3://b/unet", "unet.use_gpu=true"])
    with pytest.raises(UserError, match="wants 1 GPU in all, the cluster has 0"):
        train_unet(unet)


def test_a_run_is_planned_for_the_gpu_that_its_workers_get(monkeypatch, tmp_path):
    """And not for the driver's: `strategy=auto` waits for a node that can be asked."""
    as_if(monkeypatch, {"CPU": 64.0, "GPU": 8.0}, {})
    monkeypatch.setattr(trainer, "check_cluster", lambda *arguments: None)
    asked = []
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(trainer, "least_gpu_bytes", lambda waits: asked.append(waits) or 80 * 2**30)
    monkeypatch.setattr(trainer, "_fit", lambda config, *arguments: pytest.fail(f"planned {config.strategy}"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: pytest.fail("the driver's GPU was asked"))
    for strategy in ("auto", "zero3"):
        config = run_config(tmp_path / "runs", f"strategy={strategy}", "use_gpu=true")
        with RunLock(f"{config.runs_uri}/run") as lock, pytest.raises(pytest.fail.Exception, match=r"planned zero[23]"):
            trainer._train(config, DATA_MANIFEST, lock)
    assert asked == [True, False]


@pytest.mark.parametrize(
    ("config_class", "values", "keys"),
    [
        (TrainConfig, {"name": "r", "model": {"architecture": {}}}, ["data_uri", "runs_uri"]),
        (BaselineConfig, {"name": "u", "kind": "unet"}, ["data_uri", "out"]),
        (EvaluateConfig, {}, ["model", "against", "data_uri", "out"]),
        (CalibrateConfig, {}, ["model", "data_uri", "out"]),
        (PredictConfig, {"source": "x"}, ["model", "out"]),
        (ExportConfig, {}, ["checkpoint", "out"]),
        (BaseConfig, {}, ["source", "sam2_checkpoint", "initialise_from"]),
    ],
)
def test_paths_are_absolute_from_the_config_on(monkeypatch, tmp_path, config_class, values, keys):
    """Workers have another working directory."""
    monkeypatch.chdir(tmp_path)
    config = config_class.parse({**values, **dict.fromkeys(keys, "folder/x")})
    assert {getattr(config, key) for key in keys} == {f"{tmp_path}/folder/x"}
    remote = config_class.parse({**values, **dict.fromkeys(keys, "s3://bucket/x")})
    assert {getattr(remote, key) for key in keys} == {"s3://bucket/x"}


@contextmanager
def started_head(tmp_path: Path, *options: str, **variables: str) -> Iterator[str]:
    """Address of a head with 0 CPUs. (Ray's AutoscalingCluster does `ray stop --force`, and wants a file that is not in
    the wheel.)"""
    port = free_port(21_345)
    command = [str(SCRIPTS_DIR / "ray"), "start", "--head", "--block", "--num-cpus=0", f"--port={port}", *options]
    command += ["--include-dashboard=false", "--disable-usage-stats"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "disabled", **variables}
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:  # a socket's path is short
        command += [f"--temp-dir={folder}", f"--ray-client-server-port={free_port(21_346)}"]
        log = tmp_path / "head.log"
        with log.open("w") as output:
            head = subprocess.Popen(
                [*command, f"--object-store-memory={10**8}"], env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            deadline_s = time.monotonic() + 120
            while "will now block" not in log.read_text():
                assert time.monotonic() < deadline_s, log.read_text()[-2000:]
                assert head.poll() is None, log.read_text()[-2000:]
                time.sleep(0.2)
            yield f"127.0.0.1:{port}"
        finally:
            head.terminate()
            head.wait(timeout=60)


@pytest.mark.soak
def test_a_fresh_cluster_takes_its_first_job(tmp_path):
    """One that `ray up` has just started, whose nodes are processes of this machine: the job asks the head what may
    come."""
    config = tmp_path / "cluster.yaml"
    config.write_text(yaml.safe_dump(AUTOSCALER))
    fakes = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    with started_head(tmp_path, f"--autoscaling-config={config}", **fakes) as address:
        found = driver_on(address)
    assert found["most"] == [10, 4]
    assert found["has_limit"]
    assert found["use_gpu"]
    assert found["gpus_up"] == 0
    assert found["gpu_bytes"] is None
    assert "may start up to 4" in found["refusal"]


@pytest.mark.soak
def test_a_head_that_kuberay_started_takes_a_job_whose_nodes_are_not_up(tmp_path):
    """Its workers have the variables of its container; the driver is elsewhere."""
    command = "ray start --head  --block  --no-monitor  --num-cpus=0 "
    with started_head(tmp_path, "--no-monitor", KUBERAY_GEN_RAY_START_CMD=command) as address:
        found = driver_on(address)
    assert not found["has_limit"]
    assert not found["use_gpu"]
    assert "refusal" not in found


def driver_on(address: str) -> dict[str, Any]:
    """What `main` prints, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    driver = subprocess.run(
        [sys.executable, __file__, address],
        cwd=ROOT,
        env={**environment, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert driver.returncode == 0, driver.stderr[-3000:]
    return json.loads(driver.stdout.splitlines()[-1])


def main(address: str) -> None:
    ray.init(address=address, log_to_driver=False)
    capacity = read_capacity()
    most = [capacity.most.get(name, 0.0) for name in ("CPU", "GPU")]
    found = {"most": most, "has_limit": capacity.has_limit, "use_gpu": decide_use_gpu(None)}
    check_cluster({"CPU": 8, "GPU": 3}, "cure")
    found["gpus_up"] = ray.cluster_resources().get("GPU", 0)
    found["gpu_bytes"] = least_gpu_bytes(waits=False)
    try:
        check_cluster({"GPU": 5}, "cure")
    except UserError as error:
        found["refusal"] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
