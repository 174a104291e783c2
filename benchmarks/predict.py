"""Upstream's way against the predictor's, in one run: milliseconds, images per second, forward passes, memory.

    python -m benchmarks.predict                    the demo's tiny model on the CPU
    python -m benchmarks.predict --size 8b          random weights of full size, on a GPU

(a) one image at a time with plain greedy decoding, as upstream works; (b) the predictor in batches with a drafted
answer, alone and one behind the other, their stages overlapping; (c) on a GPU, the compiled predictor. Weights are
random but for those that make the model say the usual answer. Prints each row when it is measured, and writes
benchmarks/predict.json.
"""

import argparse
import json
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from benchmarks.overlapping import predict_batches
from sa2va_ray.models.build import build_model
from sa2va_ray.models.config import ModelConfig
from sa2va_ray.models.sa2va.generation_sa2va import DEFAULT_DRAFT, segment
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel
from sa2va_ray.models.sa2va.preparation_sa2va import Request
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor
from sa2va_ray.predict.predictor import Query, Sa2VAPredictor

ROOT = Path(__file__).parent.parent
BATCH_SIZES = (1, 4, 16)
_OVERLAPPING_BATCHES = 8
SIZES: dict[str, dict[str, Any]] = {
    "8b": {
        "llm_config": {
            "hidden_size": 3584,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "intermediate_size": 18944,
        }
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", *SIZES], default="tiny")
    parser.add_argument("--images", type=int, default=32)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, processor = build(arguments.size, device)
    teach_the_draft(model, processor)
    report = Report(arguments.size, device)
    square, wide = pictures(arguments.images, 512, 512), pictures(arguments.images // 4, 1280, 720)
    upstreams_way = partial(one_by_one, model, processor)
    report.add("one by one, plain greedy", measure(upstreams_way, model, square, batch_size=1))
    predictor = Sa2VAPredictor(model, processor)

    def predict(images: list[Image.Image]) -> list[str]:
        return [each.text for each in predictor.predict([Query(image, "a") for image in images])]

    for name in ("predictor", "compiled predictor") if device == "cuda" else ("predictor",):
        if name == "compiled predictor":
            start_s = time.perf_counter()
            predictor.compile()
            print(f"compiled in {time.perf_counter() - start_s:.1f} s", flush=True)
        for size in BATCH_SIZES:
            report.add(f"{name}, batch {size}", measure(predict, model, square, size))
            report.add(f"{name}, batches of {size} overlapping", measure_overlapping(predictor, square, size))
        for size in (1, 4):
            report.add(f"{name}, 1280 x 720, batch {size}", measure(predict, model, wide, size))


def one_by_one(model: Sa2VAModel, processor: Sa2VAProcessor, images: list[Image.Image]) -> list[str]:
    """Upstream's way, up to masks in the host's memory, as the predictor's answers are."""
    texts = []
    for image in images:
        (answer,) = segment(model, processor, [Request(image, "a")], draft="")
        (answer.mask_logits.sigmoid() > 0.5).cpu()
        texts.append(answer.text)
    return texts


def pictures(number: int, width: int, height: int) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)) for _ in range(number)]


def architecture(size: str) -> dict[str, Any]:
    """Arguments of `Sa2VAConfig`: the demo's for "tiny", or those of a key of `SIZES`."""
    if size == "tiny":
        return yaml.safe_load((ROOT / "jobs/configs/demo.yaml").read_text())["model"]["architecture"]
    return SIZES[size]


def build(size: str, device: str) -> tuple[Sa2VAModel, Sa2VAProcessor]:
    with torch.device(device):
        model, processor = build_model(ModelConfig(architecture=architecture(size)))
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model.to(device=torch.device(device), dtype=dtype)  # type: ignore[call-arg]  # transformers wraps it without types
    return model.eval(), processor


@torch.inference_mode()
def teach_the_draft(model: Sa2VAModel, processor: Sa2VAProcessor) -> None:
    """Makes a random model say the usual answer, as a trained one does: each token of it gets an embedding of its own
    direction, far larger than what the layers add, and the LM head maps that direction to the token that follows."""
    chain = [processor.prompt_ids("a", 1)[-1], *processor.answer_ids(DEFAULT_DRAFT), processor.end_token_id]
    embeddings, head = model.language_model.get_input_embeddings().weight, model.language_model.lm_head.weight
    head.zero_()
    for direction, (token, following) in enumerate(pairwise(chain)):
        embeddings[token] = 0.0
        embeddings[token, direction] = 1e4
        head[following, direction] = 1.0


def measure(
    answer: Callable[[list[Image.Image]], list[str]], model: Sa2VAModel, images: list[Image.Image], batch_size: int
) -> dict[str, Any]:
    """Median time of a batch, and what the batches took together. Passes in CUDA graphs are not counted."""
    counts: Counter[str] = Counter()
    hooks = [
        module.register_forward_hook(lambda *_, key=key: counts.update([key]))
        for key, module in {
            "language model passes": model.language_model.model,
            "SAM 2 encoder calls": model.grounding_encoder.sam2_model.image_encoder,
        }.items()
    ]
    batches = [images[begin : begin + batch_size] for begin in range(0, len(images), batch_size)]
    answer(batches[0])  # warm-up
    counts.clear()
    texts, seconds = [], []
    for batch in batches:
        start_s = time.perf_counter()
        texts += answer(batch)
        seconds.append(time.perf_counter() - start_s)
    for hook in hooks:
        hook.remove()
    said = sum(text.startswith(DEFAULT_DRAFT) for text in texts)
    return {
        "ms": 1000 * statistics.median(seconds),
        "images/s": len(images) / sum(seconds),
        **counts,
        "said the draft": f"{said}/{len(texts)}",
    }


def measure_overlapping(predictor: Sa2VAPredictor, images: list[Image.Image], batch_size: int) -> dict[str, Any]:
    """Mean time of a batch of many, one behind the other."""
    queries = [Query(image, "a") for image in images]
    batches = [queries[begin : begin + batch_size] for begin in range(0, len(queries), batch_size)]
    num_rounds = -(-_OVERLAPPING_BATCHES // len(batches))
    for _ in predict_batches(predictor, batches[:2]):  # warm-up
        pass
    start_s = time.perf_counter()
    num_answers = sum(len(answers) for answers in predict_batches(predictor, batches * num_rounds))
    seconds = time.perf_counter() - start_s
    return {"ms": 1000 * seconds / (num_rounds * len(batches)), "images/s": num_answers / seconds}


class Report:
    """Prints rows as they come, and keeps the file complete up to the last one."""

    def __init__(self, size: str, device: str):
        if device == "cuda":
            machine = torch.cuda.get_device_name()
        else:
            machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
        self._result: dict[str, Any] = {"size": size, "machine": machine, "torch": torch.__version__, "rows": []}
        print(f"{size} model, {machine}, torch {torch.__version__}", flush=True)

    def add(self, way: str, row: dict[str, Any]) -> None:
        if torch.cuda.is_available():
            row["peak GiB"] = torch.cuda.max_memory_allocated() / 2**30
            torch.cuda.reset_peak_memory_stats()
        cells = [f"{key} {f'{value:.2f}' if isinstance(value, float) else value}" for key, value in row.items()]
        print(f"{way:>36}:  {',  '.join(cells)}", flush=True)
        self._result["rows"].append({"way": way, **row})
        (ROOT / "benchmarks/predict.json").write_text(json.dumps(self._result, indent=2) + "\n")


if __name__ == "__main__":
    main()
