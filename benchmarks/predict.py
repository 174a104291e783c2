"""Upstream's way against the predictor's, in one run: forward passes, calls of SAM 2's encoder, images per second.

    python -m benchmarks.predict                    the demo's tiny model on the CPU
    python -m benchmarks.predict --size 8b          random weights of full size, on a GPU

(a) one image at a time with plain greedy decoding, as upstream works; (b) the predictor in batches of 1, 4 and 16 with
a drafted answer. Weights are random but for those that make the model say the usual answer. Prints a table and writes
benchmarks/predict.json.
"""

import argparse
import json
import platform
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from sa2va_ray.models.build import ModelConfig, build_model
from sa2va_ray.models.sa2va.generation_sa2va import DEFAULT_DRAFT, Request, segment
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor

ROOT = Path(__file__).parent.parent
BATCH_SIZES = (1, 4, 16)
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
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (512, 512, 3), np.uint8)) for _ in range(arguments.images)]
    teach_the_draft(model, processor)
    rows = [measure("one by one, plain greedy", model, processor, images, batch_size=1, draft="")]
    rows += [measure(f"predictor, batch {size}", model, processor, images, size, DEFAULT_DRAFT) for size in BATCH_SIZES]
    report(rows, arguments.size, device)


def build(size: str, device: str) -> tuple[Sa2VAModel, Sa2VAProcessor]:
    if size == "tiny":
        architecture = yaml.safe_load((ROOT / "jobs/configs/demo.yaml").read_text())["model"]["architecture"]
    else:
        architecture = SIZES[size]
    with torch.device(device):
        model, processor = build_model(ModelConfig(architecture=architecture))
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
    name: str, model: Sa2VAModel, processor: Sa2VAProcessor, images: list[Image.Image], batch_size: int, draft: str
) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    hooks = [
        module.register_forward_hook(lambda *_, key=key: counts.update([key]))
        for key, module in {
            "language model passes": model.language_model.model,
            "SAM 2 encoder calls": model.grounding_encoder.sam2_model.image_encoder,
        }.items()
    ]
    requests = [Request(image, "a") for image in images]
    segment(model, processor, requests[:batch_size], draft=draft)  # warm-up
    counts.clear()
    start_s = time.perf_counter()
    texts = []
    for begin in range(0, len(requests), batch_size):
        texts += [r.text for r in segment(model, processor, requests[begin : begin + batch_size], draft=draft)]
    seconds = time.perf_counter() - start_s
    for hook in hooks:
        hook.remove()
    said = sum(text.startswith(DEFAULT_DRAFT) for text in texts)
    return {"way": name, **counts, "images/s": len(images) / seconds, "said the draft": f"{said}/{len(texts)}"}


def report(rows: list[dict[str, Any]], size: str, device: str) -> None:
    machine = (
        torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    print(f"{size} model, {machine}, torch {torch.__version__}")
    columns = list(rows[0])
    print("  ".join(f"{column:>26}" for column in columns))
    for row in rows:
        cells = [f"{row[column]:.2f}" if isinstance(row[column], float) else str(row[column]) for column in columns]
        print("  ".join(f"{cell:>26}" for cell in cells))
    result = {"size": size, "machine": machine, "torch": torch.__version__, "rows": rows}
    (ROOT / "benchmarks/predict.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
