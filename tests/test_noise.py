"""What a user does not see, and that nothing else is kept from them. The lines are Ray's own, of a real job."""

import logging
import subprocess
import sys

import pytest

from sa2va_ray import noise
from sa2va_ray.noise import LineFilter, RecordFilter, quieten_console

_ACTOR = "core_worker.cc:2465: Actor with class name:"
HARMLESS = f"""\
{_ACTOR} 'PreemptionWatcher' and ID: '8c4e' has constructor arguments in the object
{_ACTOR} 'MapWorker(MapBatches(ReadAndPreprocess))' and ID: '1204' has constructor arguments in the object
Reporting training result 1: TrainingReport(checkpoint=Checkpoint(filesystem=s3, path=a/b), metrics=...)
[State Transition] INITIALIZING -> SCHEDULING.
[State Transition] RUNNING -> SHUTTING_DOWN.
Requesting resources: ... * 2
WARNING: 10 PYTHON worker processes have been started on node: 01 with address: 192.0.2.2, which is 5x the maximum
Setting up process group for: env:// [rank=0, world_size=2]
Starting execution of Dataset train_rank_0_0355_0. Full logs are in /tmp/ray/logs/ray-data
Execution plan of Dataset train_rank_0_0355_0: InputDataBuffer[Input]
\N{HEAVY CHECK MARK}\N{VARIATION SELECTOR-16}  Dataset train_rank_0_0355_0 execution finished in 18.31 seconds
Progress bars disabled. To enable, set `ray.data.DataContext.get_current().enable_progress_bars = True`.
/ray/data/execution_options.py:436: RayDeprecationWarning: `ExecutionOptions.exclude_resources` is deprecated
  self.exclude_resources = exclude_resources
/site-packages/transformers/modeling_utils.py:3303: FutureWarning: `is_gradient_checkpointing` is deprecated
  warnings.warn(
[WARNING] [real_accelerator.py:213:get_accelerator] Setting accelerator to CPU. If you have GPU or
*** SIGTERM received at time=1795936055 on cpu 0 ***
PC: @     0x7fd4f94a3f16  (unknown)  (unknown)
    @     0x7fd4f945a050  (unknown)  (unknown)
[2026-11-29 07:07:35,017 E 24077 24077] logging.cc:474: *** SIGTERM received at time=1795936055 on cpu 0 ***
[2026-11-29 07:07:35,017 E 24077 24077] logging.cc:474: PC: @     0x7fd4f94a3f16  (unknown)  (unknown)
[2026-11-29 07:07:35,017 E 24077 24077] logging.cc:474:     @     0x7fd4f945a050  (unknown)  (unknown)
TensorFlow installation not found - running with reduced feature set.
NOTE: Using experimental fast data loading logic. To disable, pass
    "--load_fast=false" and report issues on GitHub. More details:
    https://github.com/tensorflow/tensorboard/issues/4784

Failed to stop PlacementGroupCleaner gracefully.
Traceback (most recent call last):
  File "/ray/train/v2/_internal/callbacks/placement_group_callback.py", line 126, in _stop_cleaner
    ray.get(self._cleaner.stop.remote(), timeout=self._stop_timeout)
ray.exceptions.GetTimeoutError: Get timed out: some object(s) not ready.
""".splitlines()

TOLD = """\
06:52:32 s3://tests/way/runs/run/step_00000004: saved
06:52:32 step 10: the gradient was zero in each of the last 10 steps
[State Transition] RUNNING -> RESTARTING.
[State Transition] RUNNING -> ERRORED.
  warnings.warn(
PC: @     0x7fd4f94a3f16  (unknown)  (unknown)
    @     0x7fd4f945a050  (unknown)  (unknown)
*** SIGSEGV received at time=1795936055 on cpu 0 ***
Traceback (most recent call last):
torch.OutOfMemoryError: CUDA out of memory.
ray.exceptions.GetTimeoutError: Get timed out: some object(s) not ready.
FutureWarning: `another_name` is deprecated
Actor with class name: 'AnswerActor' died
(autoscaler) Warning: No available node types can fulfill resource request
""".splitlines()


def test_harmless_lines_are_left_out():
    assert LineFilter().kept("one", HARMLESS) == []


@pytest.mark.parametrize("line", TOLD)
def test_all_else_gets_through(line):
    assert LineFilter().kept("one", [line]) == [line]


def test_what_belongs_to_a_harmless_line_is_of_the_same_process_and_right_behind_it():
    lines = LineFilter()
    start, frame, other = "*** SIGTERM received at time=1", "    @     0x7f", "Traceback"
    assert lines.kept(1, [start]) == []
    assert lines.kept(2, [frame]) == [frame]
    assert lines.kept(1, [frame, frame, other, frame]) == [other, frame]


def test_files_get_what_the_terminal_does_not(tmp_path, capsys):
    logger = logging.getLogger("tests.noise")
    logger.propagate = False
    file, console = logging.FileHandler(tmp_path / "log"), logging.StreamHandler()
    for handler in (file, console):
        logger.addHandler(handler)
    quieten_console(logger.name)
    quieten_console(logger.name)
    logger.warning("Progress bars disabled. To enable, set")
    logger.warning("no space left")
    assert capsys.readouterr().err == "no space left\n"
    assert len((tmp_path / "log").read_text().splitlines()) == 2
    assert len(console.filters) == 1
    assert isinstance(console.filters[0], RecordFilter)


def test_as_a_process_it_passes_on_the_last_words_of_one_that_ends():
    told = "core_worker.cc:1: the raylet is gone \udcff"
    lines = "\n".join([*HARMLESS, told, "without an end of line"]).encode(errors="surrogateescape")
    done = subprocess.run([sys.executable, "-I", noise.__file__], input=lines, capture_output=True, timeout=60)
    assert done.stdout.decode(errors="surrogateescape") == f"{told}\nwithout an end of line"
    assert done.stderr == b""
