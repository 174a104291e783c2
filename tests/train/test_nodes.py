"""Nodes that go while a run is on them, on a cluster of this file's own: a head and nodes of one CPU each.

A worker and its data pipeline fill a node, so that each node has one worker.
"""

import subprocess
from collections import Counter
from contextlib import contextmanager

import pytest

from sa2va_ray.demo.stack import SCRIPTS_DIR, Stack
from sa2va_ray.models.checkpoint import list_checkpoints, read_stored_checkpoint
from tests.train.runs import Node, Run, alive_nodes, losses_of, train_workers

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


@pytest.mark.parametrize(("placed", "cpus_per_worker"), [([4], 0.2), ([2, 2], 0.4)])
def test_four_workers_on_one_node_and_on_two_go_on_with_three(start, new_node, runs_uri, placed, cpus_per_worker):
    """The guide's four; killed, and gone on with on fewer GPUs, so to speak."""
    name = f"four-{len(placed)}"
    for _ in placed[1:]:
        new_node()
    cpus = [f"cpus_per_worker={cpus_per_worker}", f"pipeline.cpus_per_actor={cpus_per_worker / 4}"]
    run = start(name, "num_workers=4", "micro_batch_size=1", *cpus)
    run.wait_for("step_00000011: saved")
    raylets = Counter(process.ppid() for process in train_workers())
    assert sorted(raylets.values()) == placed
    run.kill_driver()
    output = start(name, "num_workers=3", "micro_batch_size=1", *cpus).finish()
    assert "step 11 of 23" in output
    assert f"{NUM_SAMPLES} samples seen over 3 workers, as planned" in output
    state = read_stored_checkpoint(list_checkpoints(f"{runs_uri}/{name}")[-1]).state
    assert (state.num_workers, state.samples_seen) == (3, NUM_SAMPLES)
    assert sorted(losses_of(f"{runs_uri}/{name}")) == list(range(1, NUM_STEPS + 1))


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
