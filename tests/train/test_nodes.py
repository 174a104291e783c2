"""Nodes that go while a run is on them, on a cluster of this file's own: a head and nodes of one CPU each.

A worker and its data pipeline fill a node, so that each node has one worker.
"""

import subprocess
from contextlib import contextmanager

import pytest

from sa2va_ray.demo.stack import SCRIPTS_DIR, Stack
from sa2va_ray.models.checkpoint import list_checkpoints, read_stored_checkpoint
from tests.train.runs import Node, Run, alive_nodes, losses_of

pytestmark = pytest.mark.soak

SETTINGS = ["repeats=10", "save_every_steps=11", "validation.every_steps=0", "cpus_per_worker=0.75"]
NUM_STEPS, NUM_SAMPLES = 23, 90


@pytest.fixture(scope="module")
def start(start_run):
    return lambda name, *settings: start_run(*SETTINGS, f"name={name}", *settings)


@pytest.fixture(scope="module")
def cluster(tiny_run, tmp_path_factory):
    with Stack(tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.start_ray(num_cpus=1)
        with cluster.applied_env():
            yield cluster


@pytest.fixture
def new_node(cluster, tmp_path):
    nodes = []

    def new() -> Node:
        nodes.append(Node(tmp_path))
        return nodes[-1]

    yield new
    for node in nodes:
        node.stop()


def test_a_killed_raylet_is_waited_for_and_the_run_goes_on(start, new_node, runs_uri):
    node = new_node()
    run = start("raylet")
    run.wait_for("step_00000011: saved")
    node.kill_raylet()
    new_node()
    output = run.finish()
    assert "resuming from" in output
    assert sorted(losses_of(f"{runs_uri}/raylet")) == list(range(1, NUM_STEPS + 1))
    assert read_stored_checkpoint(list_checkpoints(f"{runs_uri}/raylet")[-1]).state.samples_seen == NUM_SAMPLES


def test_an_elastic_run_goes_on_with_the_nodes_that_are_left(start, new_node, runs_uri):
    node = new_node()
    run = start("elastic", "min_workers=1")
    run.wait_for("step_00000011: saved")
    node.kill_raylet()
    output = run.finish()
    state = read_stored_checkpoint(list_checkpoints(f"{runs_uri}/elastic")[-1]).state
    assert state.num_workers == 1
    assert state.samples_seen == NUM_SAMPLES
    assert f"{NUM_SAMPLES} samples seen over 1 workers, as planned" in output


def test_a_node_that_is_to_go_is_given_a_checkpoint_first(start, cluster, new_node, runs_uri):
    """The notice that a cloud gives before it takes a node away."""
    new_node()
    run = start("preempted", "repeats=40", "save_every_steps=1000")
    run.wait_for("progress train 3/")
    node_id = next(node["node_id"] for node in alive_nodes() if not node["is_head_node"])
    notice = ["--node-id", node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test"]
    command = [str(SCRIPTS_DIR / "ray"), "drain-node", "--address", cluster.ray_address, *notice]
    subprocess.run([*command, "--deadline-remaining-seconds", "600"], check=True, timeout=60)
    run.wait_for("saved")
    saved = read_stored_checkpoint(list_checkpoints(f"{runs_uri}/preempted")[0]).state
    assert 3 < saved.step < 90
    run.finish()


@contextmanager
def small_disk(folder, mebibytes: float):
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={int(mebibytes * 1024)}k", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("mebibytes", [1, 16])
def test_a_full_disk_ends_the_run_with_what_to_do(tiny_run, tmp_path, monkeypatch, mebibytes):
    """A disk of 1 MiB is seen to be full before writing; one of 16 MiB, one worker's share, while two write."""
    with small_disk(tmp_path / "disk", mebibytes) as disk, Stack(tmp_path / "cluster") as cluster:
        monkeypatch.setenv("TMPDIR", str(disk))
        cluster.start_ray(num_cpus=2)
        monkeypatch.undo()
        with cluster.applied_env():
            run = Run([*tiny_run, f"name=full-{mebibytes}", "max_failures=0", "validation.every_steps=0"], tmp_path)
            error = run.error()
    assert "could not be written to the local disk" in error
    assert "set TMPDIR to a larger disk" in error
