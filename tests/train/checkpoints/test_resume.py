"""Two ranks take a run's checkpoint up together: they share a copy, and agree."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch.distributed as dist

from sa2va_ray import storage
from sa2va_ray.train.checkpoints.disks import check_room
from sa2va_ray.train.checkpoints.resume import find_resume_point
from sa2va_ray.train.collectives import gather_objects
from sa2va_ray.train.errors import RunStoppedError
from tests.train import ranks
from tests.train.saved_runs import DATA_SHA256, NAMES, damage, run_config, save, tensors_of

pytestmark = pytest.mark.cluster  # a group of processes of torch.distributed


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    config = run_config(folder / "runs")
    for step in (10, 20):
        last = save(folder / "disk", step, config)
    damage(last, "a flipped bit")
    return ranks.run_ranks(run, 2, folder)


def test_ranks_of_a_machine_share_one_copy_of_the_newest_sound_checkpoint(results):
    """The damaged one was fetched once, too."""
    assert results["steps"] == [10, 10]
    assert results["fetched"] == [2, 0]
    assert results["same"] == [True, True]
    assert results["left"] == 0


def test_a_setting_that_may_not_change_ends_the_run_on_all_ranks(results):
    assert all("seed was 0, is 1" in error for error in results["refused"])


def test_room_is_counted_for_all_ranks_of_a_disk(results):
    """Each rank's own share would fit: 60 of 100 MiB."""
    assert all("120.0 MiB could not be written" in error for error in results["full"])
    assert all("100.0 MiB are free" in error for error in results["full"])
    assert results["fits"] == [None] * 2


def run(folder: Path) -> dict:
    config, fetched, results = run_config(folder / "runs"), [], {}
    download = storage.download_files

    def count_download(uri, names, local):
        fetched.append(uri)
        download(uri, names, local)

    storage.download_files = count_download
    with find_resume_point(config, DATA_SHA256) as point:
        read, expected = point.reader(), tensors_of(10)
        same = all(
            read(name, what).equal(expected[name if what == "weight" else f"{what}.{name}"])
            for name in NAMES
            for what in ("weight", "exp_avg", "exp_avg_sq")
        )
    dist.barrier()
    results["left"] = len(list(point.folder.parent.glob(point.folder.name)))
    results |= {name: gather_objects(value) for name, value in {"same": same, "fetched": len(fetched)}.items()}
    results["steps"] = gather_objects(point.state.step)
    results["refused"] = gather_objects(error_of(lambda: find(run_config(folder / "runs", "seed=1"))))
    shutil.disk_usage = lambda path: namedtuple("usage", "free")(100 * 2**20)
    results["full"] = gather_objects(error_of(lambda: check_room(folder, 60 * 2**20, "A share")))
    results["fits"] = gather_objects(error_of(lambda: check_room(folder, 50 * 2**20, "A share")))
    return results


def find(config) -> None:
    with find_resume_point(config, DATA_SHA256):
        pass


def error_of(operation) -> str | None:
    try:
        operation()
    except RunStoppedError as error:
        return str(error)
    return None
