"""The steps of the demo, each the command that a user would type, with a line, a bar and its time."""

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import yaml
from PIL import Image
from tqdm import tqdm

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.data.sample import decode_image
from sa2va_ray.demo.connection_file import write_connection
from sa2va_ray.demo.request import post_image, wait_ready
from sa2va_ray.demo.stack import SCRIPTS_DIR, STORE_DIR, Stack, free_port
from sa2va_ray.demo.synthetic import write_synthetic_dataset
from sa2va_ray.pictures.panels import mask_panels
from sa2va_ray.prepare.identity.pseudonym_key import KEY_VARIABLE
from sa2va_ray.telemetry import parse_progress

BUCKET = "sa2va"
HOME = f"s3://{BUCKET}/demo"
DATA, RUNS, MODEL, EVALUATION = (f"{HOME}/{name}" for name in ("data", "runs", "model", "evaluation"))
SERVE_CONFIG = Path("serve_configs/local_cpu.yaml")
_LOGICAL_CPUS = 4  # what Ray may hand out; steps that overlap share the machine's cores
_LOG_LINES_SHOWN = 15
_AFTER_A_FAILURE = """\
again        mend what it says, then the failed step alone in that shell, as it stands above, or all of it: make demo
             make stop  ends the services, which still run"""
_BAR_INTERVAL_S, _BAR_INTERVAL_IN_A_LOG_S = 0.5, 20.0
_PAUSE = "validate"  # of a training, whose bar stands meanwhile


def run(state_dir: Path, output_dir: Path, data: Path | None, overrides: Sequence[str]) -> None:
    """Runs the main job from images to masks over HTTP and leaves the endpoint up.

    Writes `mask.png`, `overlay.png`, `metrics.json` and `tensorboard/` to `output_dir`; logs, data of the store and
    the synthetic images to `state_dir`. Both are emptied first, but for the store, of which only the demo's own folder
    is: a user may have put results of weeks beside it.

    Raises:
        UserError: a data folder that does not exist; a step that failed, with the last lines of its log, and how one
            looks into what still runs.
    """
    if data is not None and not data.is_dir():
        raise UserError(
            f"There is no data folder {data}. Give one whose layout jobs.prepare reads: make demo DATA=folder"
        )
    Stack.load(state_dir).stop()
    _empty(output_dir)
    _empty(state_dir, but=STORE_DIR)
    if data is None:
        os.environ.setdefault(KEY_VARIABLE, "synthetic")  # the same split each time; there is nobody to protect
    demo = _Demo(state_dir, output_dir, Stack(state_dir))
    source = data.absolute() if data else demo.make_synthetic_data()
    demo.start_services()
    try:
        _run_job(demo, source, overrides, is_synthetic=data is None)
    except UserError as error:
        raise UserError(f"{str(error).rstrip()}\n\n{demo.ways_in()}\n{_AFTER_A_FAILURE}") from None


def _empty(folder: Path, but: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            if path.name != but:
                shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _run_job(demo: "_Demo", source: Path, overrides: Sequence[str], is_synthetic: bool) -> None:
    split = ["split.method=balanced", "split.val_fraction=0.1", "split.test_fraction=0.2"]  # with few patients, too
    demo.submit("prepare", [f"source={source}", f"out={DATA}", *split])
    demo.submit("train", ["jobs/configs/demo.yaml", *overrides])
    demo.submit("export", [f"checkpoint={RUNS}/demo", f"out={MODEL}", "name=demo"])
    demo.submit("evaluate", [f"model={MODEL}", f"data_uri={DATA}", f"out={EVALUATION}", "use_gpu=false"])
    endpoint = demo.deploy()
    demo.segment_test_image(endpoint)
    demo.summarize(endpoint, is_synthetic)


@dataclass
class _Demo:
    state_dir: Path
    output_dir: Path
    stack: Stack
    started_s: float = field(default_factory=time.perf_counter)

    def make_synthetic_data(self) -> Path:
        folder = self.state_dir.absolute() / "synthetic"
        with _step("make SYNTHETIC vessel-like images (not of any patient)"):
            write_synthetic_dataset(folder)
        return folder

    def start_services(self) -> None:
        with _step("start the S3 object store (SeaweedFS)"):
            self.stack.start_store(BUCKET)
            with self.stack.applied_env():
                storage.delete_folder(HOME)
        with _step("start a Ray head with its dashboard"):
            self.stack.start_ray(num_cpus=_LOGICAL_CPUS)
        write_connection(self.state_dir, self.stack.env)

    def submit(self, verb: str, arguments: Sequence[str]) -> None:
        """`ray job submit -- python -m jobs.VERB ARGUMENTS`, with a bar where the job reports progress."""
        job = ["python", "-m", f"jobs.{verb}", *arguments]
        submit = ["job", "submit", "--working-dir", ".", "--", *job]
        with _step(f"ray job submit -- {' '.join(job)}"), _bar(verb) as advance:
            self._command("ray", submit, verb, advance)

    def deploy(self) -> str:
        """`sa2va-ray deploy` of local_cpu.yaml; returns the endpoint's URL once a replica answers."""
        config = yaml.safe_load(SERVE_CONFIG.read_text())
        wanted, path = config["http_options"]["port"], SERVE_CONFIG
        port = free_port(preferred=wanted)
        if port != wanted:
            path = self.state_dir / SERVE_CONFIG.name
            config["http_options"]["port"] = port
            path.write_text(yaml.safe_dump(config))
        endpoint = f"http://127.0.0.1:{port}"
        with _step(f"sa2va-ray deploy {path}" + (f"   (port {wanted} is taken)" if port != wanted else "")):
            self._command("sa2va-ray", ["deploy", str(path)], "deploy")
            wait_ready(endpoint)
        return endpoint

    def segment_test_image(self, endpoint: str) -> None:
        with _step(f"POST a test image to {endpoint}/v1/segment"), self.stack.applied_env():
            sample = _first_test_sample()
            mask_png = post_image(endpoint, sample["image"])
        (self.output_dir / "mask.png").write_bytes(mask_png)
        mask = np.asarray(Image.open(io.BytesIO(mask_png)).convert("L")) > 0
        panels = mask_panels(np.asarray(decode_image(sample)), mask)
        Image.fromarray(panels).save(self.output_dir / "overlay.png")
        with self.stack.applied_env():
            (self.output_dir / "metrics.json").write_bytes(storage.read_bytes(f"{EVALUATION}/metrics.json"))
            storage.download_folder(f"{RUNS}/demo/tensorboard", self.output_dir / "tensorboard")

    def ways_in(self) -> str:
        """How a browser and a shell reach the services."""
        return (
            f"dashboard    {self.stack.dashboard_url}   it asks for the token in {self.state_dir}/auth_token\n"
            f'this shell   eval "$({SCRIPTS_DIR}/sa2va-ray env)"   reaches cluster and store'
        )

    def summarize(self, endpoint: str, is_synthetic: bool) -> None:
        metrics = json.loads((self.output_dir / "metrics.json").read_text())
        on = "SYNTHETIC test images" if is_synthetic else "test images"
        print(
            f"""
Dice {metrics["per_patient"]["dice"]:.3f} on {metrics["num_images"]} {on} of {metrics["num_patients"]} held-out \
patient(s) \
(IoU {metrics["per_patient"]["iou"]:.3f}, precision {metrics["per_patient"]["precision"]:.3f}, \
recall {metrics["per_patient"]["recall"]:.3f})

results      {self.output_dir}/mask.png overlay.png metrics.json   tensorboard --logdir {self.output_dir}/tensorboard
endpoint     {endpoint}/v1/segment   e.g. curl -F file=@image.png {endpoint}/v1/segment
page         {endpoint}   drop an image on it
{self.ways_in()}; then: sa2va-ray open {EVALUATION}
total        {time.perf_counter() - self.started_s:.0f} s.   make stop  ends the services"""
        )

    def _command(
        self, program: str, arguments: Sequence[str], name: str, advance: Callable[[str], None] | None = None
    ) -> None:
        """Runs a program of this virtual environment; its output goes to logs/NAME.log and line by line to `advance`.

        Raises:
            UserError: it failed; with the end of its output.
        """
        log = self.state_dir / "logs" / f"{name}.log"
        log.parent.mkdir(exist_ok=True)
        command = [str(Path(sys.executable).with_name(program)), *arguments]
        with (
            log.open("w", buffering=1) as file,
            subprocess.Popen(
                command,
                env={**os.environ, **self.stack.env},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                file.write(line)
                if advance:
                    advance(line)
        if process.returncode:
            end = "".join(log.read_text().splitlines(keepends=True)[-_LOG_LINES_SHOWN:])
            raise UserError(f"The step '{name}' failed (exit status {process.returncode}). The end of {log}:\n{end}")


@contextmanager
def _step(title: str) -> Iterator[None]:
    print(f"> {title}", flush=True)
    start_s = time.perf_counter()
    yield
    print(f"  {time.perf_counter() - start_s:.1f} s", flush=True)


@contextmanager
def _bar(verb: str) -> Iterator[Callable[[str], None]]:
    """A function that moves a bar by the progress lines that it is given."""
    seconds = _BAR_INTERVAL_S if sys.stdout.isatty() else _BAR_INTERVAL_IN_A_LOG_S
    shape = "{desc} {bar:30} {n_fmt}/{total_fmt}  {elapsed}<{remaining}"
    with tqdm(
        desc=f"  {verb}", mininterval=seconds, maxinterval=seconds, bar_format=shape, file=sys.stdout, delay=1e-3
    ) as bar:

        def advance(line: str) -> None:
            progress = parse_progress(line)
            if progress and progress[0] != _PAUSE:
                _, done, bar.total = progress
                if not bar.n:  # the start of a job is no measure of what is left
                    bar.initial = bar.n = bar.last_print_n = done
                    bar.start_t = bar.last_print_t = time.time()
                    bar.delay = 0  # else a job that is quick from here on would end without a last look at its bar
                    bar.refresh()
                bar.update(done - bar.n)

        yield advance


def _first_test_sample() -> dict:
    names = sorted(name for name in storage.list_files(DATA) if name.startswith("test-"))
    filesystem, path = storage.resolve(f"{DATA}/{names[0]}")
    return pq.ParquetFile(filesystem.open_input_file(path)).read_row_group(0).to_pylist()[0]
