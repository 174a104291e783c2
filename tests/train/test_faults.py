"""What may happen to a run, done to it for real: none of it changes what comes out."""

import io
import re
import signal
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from sa2va_ray import storage
from sa2va_ray.manifest import MANIFEST, read_manifest, to_json, write_manifest
from sa2va_ray.models.checkpoint import list_checkpoints, read_stored_checkpoint
from sa2va_ray.train.checkpoints.beat import LOCK_FILE
from sa2va_ray.train.watch.run_facts import read_run_facts
from tests.train.runs import losses_of, train_workers, weights_of

pytestmark = pytest.mark.soak

LAST = 24  # two epochs of 12 steps; the last step of each has a sample for one rank only
SETTINGS = ["num_epochs=2", "repeats=5", "save_every_steps=11", "validation.every_steps=0"]


@pytest.fixture(scope="module")
def start(start_run):
    return lambda name, *settings: start_run(*SETTINGS, f"name={name}", *settings)


@pytest.fixture(scope="module")
def undisturbed(start, runs_uri):
    start("undisturbed").finish()
    return f"{runs_uri}/undisturbed"


def assert_same(run_uri, undisturbed):
    expected, found = weights_of(undisturbed), weights_of(run_uri)
    assert [name for name, tensor in expected.items() if not tensor.equal(found[name])] == []
    losses = losses_of(undisturbed)
    assert sorted(losses) == list(range(1, LAST + 1))
    resumed = losses_of(run_uri)
    assert resumed == {step: losses[step] for step in resumed}
    assert set(range(12, LAST + 1)) <= resumed.keys()


def test_a_killed_driver_and_a_second_start_give_the_same_weights(start, undisturbed, runs_uri):
    """Stopped inside an epoch; bit by bit the same losses and weights. Of two that are started one trains the run, and
    with other settings it is not started again."""
    run, other = start("killed"), start("killed")
    while other.process.poll() is None:
        run, other = other, run
        time.sleep(0.1)
    assert f"process {run.process.pid} on" in other.error()
    run.wait_for("step_00000011: saved")
    run.kill_driver()
    output = start("killed").finish()
    assert "taken over from process" in output
    assert "step 11 of 24" in output
    assert_same(f"{runs_uri}/killed", undisturbed)
    assert read_stored_checkpoint(list_checkpoints(f"{runs_uri}/killed")[-1]).state.samples_seen == 90
    assert "at its end already" in start("killed").finish()
    for setting, told in (("repeats=6", "repeats was 5, is 6"), ("optim.lr=0.5", "optim.lr was 0.001, is 0.5")):
        error = start("killed", setting).error()
        assert told in error
        assert "RayTrainWorker" not in error


def test_a_lost_worker_and_a_silent_store_change_nothing(start, stack, undisturbed, runs_uri):
    """A worker killed in mid-step, and a store that does not answer for 30 s during an upload."""
    run = start("hurt")
    run.wait_for("progress train 10/")
    store = stack.processes[0].find()
    store.send_signal(signal.SIGSTOP)
    time.sleep(30)
    store.send_signal(signal.SIGCONT)
    run.wait_for("step_00000011: saved")
    train_workers()[-1].send_signal(signal.SIGKILL)
    output = run.finish()
    assert "waits for the store" in output
    assert "resuming from" in output
    assert_same(f"{runs_uri}/hurt", undisturbed)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])  # Ctrl-C, `ray job stop`
def test_a_run_that_is_stopped_says_so_and_what_the_same_command_does(start, runs_uri, sent):
    run = start(f"stopped-{sent}")
    run.wait_for("progress train 3/")
    run.process.send_signal(sent)
    assert run.process.wait(timeout=100) == 1  # Ray's own; a job that has not come to the workers ends with 130
    told = "stopped. The same job, started again, goes on from the newest checkpoint"
    assert told in "".join(run.output().splitlines()[-2:])  # Ray's controller may say that it has aborted behind it
    assert not train_workers()
    assert read_run_facts(f"{runs_uri}/stopped-{sent}")["state"]["name"] == "stopped"
    assert LOCK_FILE not in storage.list_files(f"{runs_uri}/stopped-{sent}")


def test_three_workers_go_on_where_two_stopped(start, runs_uri):
    """Sums of float32 in another order: the losses of the 13 steps stay within what that can do. With one sample in a
    micro batch, so that each has random points of its own."""
    start("two", "micro_batch_size=1").finish()
    run = start("more", "micro_batch_size=1")
    run.wait_for("step_00000011: saved")
    run.kill_driver()
    output = start("more", "micro_batch_size=1", "num_workers=3").finish()
    assert "45 samples seen over 3 workers, as planned" in output
    expected, found = losses_of(f"{runs_uri}/two"), losses_of(f"{runs_uri}/more")
    for step in range(12, LAST + 1):
        assert found[step] == pytest.approx(expected[step], rel=2e-3), step
    assert read_stored_checkpoint(list_checkpoints(f"{runs_uri}/more")[-1]).state.samples_seen == 90


def test_a_damaged_checkpoint_is_named_and_passed_over(start, undisturbed, runs_uri):
    """The newest one loses a byte; the run goes on from the one before it."""
    run = start("damaged", "save_every_steps=5")
    run.wait_for("step_00000010: saved")
    run.kill_driver()
    run_uri = f"{runs_uri}/damaged"
    newest = list_checkpoints(run_uri)[-1]
    name = next(name for name in storage.list_files(newest) if name.startswith("optimizer-"))
    data = bytearray(storage.read_bytes(f"{newest}/{name}"))
    data[-1] ^= 1
    storage.write_bytes(f"{newest}/{name}", bytes(data))
    output = start("damaged", "save_every_steps=5").finish()
    assert f"checkpoint {newest} is passed over" in output
    last = list_checkpoints(run_uri)[-1]
    state = storage.read_bytes(f"{last}/train_state.json")
    storage.write_bytes(f"{last}/train_state.json", state[: len(state) // 2])
    storage.write_bytes(f"{run_uri}/step_00000015/{MANIFEST}", b"")  # in the middle: saves go on all the same
    output = start("damaged", "save_every_steps=5").finish()
    assert f"checkpoint {last} is passed over" in output
    assert "step 20 of 24" in output
    assert "at its end already" in start("damaged", "save_every_steps=5").finish()
    expected, found = weights_of(undisturbed), weights_of(run_uri)
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_a_store_that_is_gone_for_good_ends_the_run_with_what_to_do(start, stack):
    run = start("gone", "storage_patience_s=5", "max_failures=0")
    run.wait_for("progress train 10/")
    store = stack.processes[0].find()
    store.send_signal(signal.SIGSTOP)
    try:
        assert "resume=auto" in run.error()
    finally:
        store.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def damaged_data(prepared_uri, tmp_path_factory) -> tuple[str, str]:
    """(prepared data set whose first training image cannot be decoded, its sample's id)."""
    folder = tmp_path_factory.mktemp("damaged") / "data"
    storage.download_folder(prepared_uri, folder)
    sample_id = cut_first_image(folder)
    uri = f"{prepared_uri}-damaged"
    storage.upload_folder(Path(folder), uri, last=MANIFEST)
    return uri, sample_id


def cut_first_image(folder: Path) -> str:
    """Writes a data set anew, without half of its first training image. Returns that sample's id."""
    facts = {name: value for name, value in read_manifest(str(folder)).items() if name != "files"}
    (file,) = folder.glob("train-*.parquet")
    rows = pq.read_table(file).to_pylist()
    rows[0]["image"] = rows[0]["image"][: len(rows[0]["image"]) // 2]
    schema, written = pq.read_schema(file), io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), written, row_group_size=1)
    file.write_bytes(written.getvalue())
    (folder / MANIFEST).unlink()
    write_manifest(folder, facts)
    return rows[0]["sample_id"]


def test_workers_that_are_started_again_do_not_train_on_a_data_set_that_was_written_anew(start, prepared_uri, tmp_path):
    storage.download_folder(prepared_uri, tmp_path / "data")
    run = start("swapped", f"data_uri={tmp_path / 'data'}")
    run.wait_for("progress train 10/")
    cut_first_image(tmp_path / "data")
    train_workers()[-1].send_signal(signal.SIGKILL)
    assert re.search(r"written anew while it was in use: it was \w{12}, is \w{12}\. Start anew", run.error())


def test_an_unreadable_row_is_counted_and_named_and_the_run_goes_on(start, damaged_data, runs_uri):
    uri, sample_id = damaged_data
    settings = [f"data_uri={uri}", "num_epochs=1", "pipeline.max_bad_samples=5"]
    output = start("unreadable", *settings).finish()
    assert f"sample {sample_id} is left out" in output
    assert "epoch 0: 5 samples could not be decoded" in output
    assert read_stored_checkpoint(list_checkpoints(f"{runs_uri}/unreadable")[-1]).state.samples_seen == 40


def test_too_many_unreadable_rows_end_the_run_with_what_to_do(start, damaged_data):
    run = start("too-many", f"data_uri={damaged_data[0]}", "num_epochs=1", "pipeline.max_bad_samples=4")
    error = run.error()
    assert "5 samples could not be decoded" in error
    assert "prepare it again" in error


def test_a_sample_that_is_too_long_after_all_ends_the_run_with_its_own_words(start, prepared_uri, tmp_path):
    """A data set whose manifest does not list what its samples are like, as older ones do not."""
    storage.download_folder(prepared_uri, tmp_path / "data")
    manifest = read_manifest(str(tmp_path / "data"))
    files = {name: manifest.pop(name) for name in ("files", "sample_kinds")}["files"]
    (tmp_path / "data" / MANIFEST).write_bytes(to_json(files, manifest))
    run = start("too-long", f"data_uri={tmp_path / 'data'}", "pipeline.max_length=20", "max_failures=0")
    assert re.search(r"The run ended: Sample \w+ has \d+ tokens, pipeline\.max_length is 20\. Raise it", run.error())
