"""The engine and the predictor on a CUDA device: two steps of the tiny model, a third from what a checkpoint would keep
of them, then one answer (`make test-gpu`).

Run as a script, this file is the only worker: a process that was forked from one with CUDA could not use it.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sa2va_ray.demo.stack import free_port
from sa2va_ray.predict.predictor import Query, Sa2VAPredictor
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.engine.deepspeed import build_engine
from sa2va_ray.train.engine.zero_state import gather_owned, restore
from sa2va_ray.train.step import MicroBatch, train_step
from tests.train import ranks

ROOT = Path(__file__).parents[2]
NUM_STEPS = 2


@pytest.mark.gpu
def test_it_trains_and_predicts(tmp_path):
    environment = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port(29_500))}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    found = torch.load(tmp_path / "results.pt", weights_only=True)
    assert found["device"].startswith("cuda")
    assert found["losses"] == sorted(found["losses"], reverse=True)
    assert found["shape"] == [1, 48, 64]
    assert found["is_finite"]


def main(out: Path) -> None:
    config = TrainConfig.load([*ranks.TINY, "num_workers=1", "strategy=zero3", "use_gpu=true"])
    model, processor = ranks.build_tiny(config)
    engine = build_engine(model, config, "fp32")
    batch = ranks.tiny_batch(processor, seed=0).pinned()
    results = [
        train_step(engine, [MicroBatch(batch, seed=0)], batch, config.loss, learning_rate=1e-3)
        for _ in range(NUM_STEPS)
    ]
    saved = dict(gather_owned(engine))
    restore(engine, lambda name, part: saved[name][part], num_steps=NUM_STEPS)
    results.append(train_step(engine, [MicroBatch(batch, seed=0)], batch, config.loss, learning_rate=1e-3))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    query = Query(image, "Please segment the vessels.", answer="Sure, [SEG].")
    (prediction,) = Sa2VAPredictor(engine.module.eval(), processor).predict([query])
    found = {
        "device": str(engine.device),
        "losses": [result.losses["loss"] for result in results],
        "shape": list(prediction.probabilities.shape),
        "is_finite": bool(np.isfinite(prediction.probabilities).all()),
    }
    torch.save(found, out / "results.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
