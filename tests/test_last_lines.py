"""Each job ends with where its result is and what comes next, also where folders are called like patterns."""

import json
import logging
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sa2va_ray import storage
from sa2va_ray.baselines.config import BaselineConfig
from sa2va_ray.baselines.run import fit_baseline
from sa2va_ray.config import UserError
from sa2va_ray.data.preview import PreviewConfig, preview
from sa2va_ray.evaluate.calibrate import calibrate
from sa2va_ray.evaluate.config import CalibrateConfig, EvaluateConfig
from sa2va_ray.evaluate.run import evaluate
from sa2va_ray.export.config import ExportConfig
from sa2va_ray.export.run import export
from sa2va_ray.predict.job.config import PredictConfig
from sa2va_ray.predict.job.run import predict
from sa2va_ray.prepare.config import PrepareConfig, SplitConfig
from sa2va_ray.prepare.run import prepare
from sa2va_ray.telemetry import LOGGER, configure_logging
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.trainer import train

DEMO = str(Path(__file__).parents[1] / "jobs/configs/demo.yaml")
CPU = {"use_gpu": False, "cpus_per_actor": 0.5}


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What jobs log."""
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    configure_logging()
    LOGGER.addHandler(handler)
    yield logged
    LOGGER.removeHandler(handler)


def ends_with(lines: list[str], result: Path | str, job: str, *given: str) -> None:
    """Checks the last lines, and that a shell reads their commands as they were meant."""
    assert lines[-1] == f"result: {result}"
    assert shlex.split(lines[-2].removeprefix("look at it: ")) == ["sa2va-ray", "open", str(result)]
    words = shlex.split(lines[-3].removeprefix("next: "))
    assert words[:3] == ["python", "-m", f"jobs.{job}"]
    assert set(given) <= set(words)


@pytest.mark.soak  # five jobs: a minute
def test_jobs_on_folders_that_are_called_like_patterns(ray_cluster, prepared_uri, tmp_path, lines):
    folder = tmp_path / "prep [v2] *?#%20"
    data, model = folder / "data", folder / "model"
    storage.download_folder(prepared_uri, data)
    preview(PreviewConfig(data_uri=str(data), out=str(folder / "sheet.png")))
    ends_with(lines, folder / "sheet.png", "train", f"data_uri={data}")
    values = {"kind": "vessel_filter", "name": "filter", "data_uri": str(data), "out": str(model)}
    fit_baseline(BaselineConfig.parse(values | {"vessel_filter": {"widths_px": [2, 4]}}))
    ends_with(lines, model, "evaluate", f"model={model}", f"data_uri={data}")
    calibrate(CalibrateConfig(model=str(model), data_uri=str(data), **CPU))
    ends_with(lines, model / "calibration.html", "evaluate", f"model={model}", f"data_uri={data}")
    evaluate(EvaluateConfig(model=str(model), data_uri=str(data), out=str(folder / "evaluation"), **CPU))
    ends_with(lines, folder / "evaluation/report.html", "predict", f"model={model}")
    (folder / "images").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)).save(folder / "images/a[1].png")
    for images in (folder / "images", folder / "images/a[1].png", folder / "images/*.png", data):
        out = folder / "predictions" / images.name
        counts = predict(PredictConfig(model=str(model), source=str(images), out=str(out), split=None, **CPU))
        assert counts["images"] == (21 if images == data else 1)
        ends_with(lines, out, "evaluate", f"model={model}")


def write_images(folder: Path) -> None:
    """Images of four patients, with a LabelMe file each."""
    folder.mkdir(parents=True)
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 48), np.uint8)
        Image.fromarray(pixels).save(folder / f"p{number}_frame_1.png")
        shape = {"label": "vessel", "shape_type": "circle", "points": [[20, 20], [28, 20]]}
        content = {"shapes": [shape], "imageHeight": 48, "imageWidth": 48}
        (folder / f"p{number}_frame_1.json").write_text(json.dumps(content))


def test_prepare(ray_cluster, tmp_path, lines, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "s [1]")
    split = {"val_fraction": 0, "test_fraction": 0}
    config = PrepareConfig(source="s [1]", out="out [1]", split=split)
    prepare(config)
    out = tmp_path / "out [1]"
    ends_with(lines, out, "train", f"data_uri={out}")
    few = SplitConfig(val_fraction=1e-9, test_fraction=0)
    prepare(config.model_copy(update={"validate_only": True, "split": few}))
    assert lines[-4].startswith("WARNING: Split val is empty (patients: train 4, val 0, test 0).")
    report = out / "validation/report.html"
    assert lines[-3] == "next: the same command without validate_only=true"
    assert shlex.split(lines[-2])[-1] == str(report)
    assert lines[-1] == f"result: {report}"


def test_outputs_within_inputs_are_refused_by_every_job(tmp_path):
    inner, outer = str(tmp_path / "a/b"), str(tmp_path / "a")
    Path(inner).mkdir(parents=True)
    baseline = {"kind": "unet", "name": "x"}
    for run, config in (
        (prepare, PrepareConfig(source=outer, out=inner)),
        (prepare, PrepareConfig(source=inner, out=outer)),
        (export, ExportConfig(checkpoint=outer, out=inner)),
        (export, ExportConfig(checkpoint=inner, out=outer)),
        (evaluate, EvaluateConfig(model=outer, data_uri="x", out=inner)),
        (evaluate, EvaluateConfig(model="x", against=outer, data_uri="x", out=inner)),
        (evaluate, EvaluateConfig(model="x", data_uri=outer, out=inner)),
        (calibrate, CalibrateConfig(model="x", data_uri=outer, out=inner)),
        (fit_baseline, BaselineConfig(data_uri=outer, out=inner, **baseline)),
        (fit_baseline, BaselineConfig(data_uri=inner, out=outer, **baseline)),
        (train, TrainConfig.load([DEMO, f"data_uri={outer}", f"runs_uri={inner}", "name=x"])),
        (preview, PreviewConfig(data_uri=outer, out=f"{inner}/x.png")),
    ):
        with pytest.raises(UserError, match=r"^`\w+` lies within `\w+`"):
            run(config)
    assert list(tmp_path.rglob("*")) == [tmp_path / "a", tmp_path / "a/b"]
