"""The exported folder: complete, loadable by transformers alone, and the same model as its checkpoint."""

import importlib.metadata
import json
import os
import subprocess
import venv
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.models.checkpoint import find_checkpoint
from sa2va_ray.models.loading.load import load_model
from sa2va_ray.models.model_manifest import read_model_manifest
from sa2va_ray.models.sa2va.generation_sa2va import segment
from sa2va_ray.models.sa2va.preparation_sa2va import Request
from sa2va_ray.predict.predictor import Query, Sa2VAPredictor
from tests.export.merged import merged_model

QUESTION = "Please segment the vessel."
CHAT = """
import importlib.util
import sys
import numpy as np
from PIL import Image
from transformers import AutoModel, AutoTokenizer

assert all(importlib.util.find_spec(name) is None for name in ("sa2va_ray", "ray", "deepspeed", "peft"))
folder, image, question, out = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True).float().eval()
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
image, messages = Image.open(image), [{"role": "user", "content": question}]
text, masks = model.chat(image=image, msgs=messages, tokenizer=tokenizer, return_masks=True, max_new_tokens=32)
forward = model.predict_forward(image=image, text="<image>\\n" + question, tokenizer=tokenizer, max_new_tokens=32)
assert forward["prediction"].removesuffix("<|im_end|>") == text
assert all((a == b[0]).all() for a, b in zip(masks, forward["prediction_masks"], strict=True))
np.savez(out, text=text, masks=np.array(masks))
"""


@pytest.fixture(scope="session")
def clean_python(tmp_path_factory) -> Path:
    """The Python of a new environment that has torch, transformers and sam2 with what they need, and nothing of ours.
    They are linked, not installed: 13 s less, and they are compiled already, 10 s more."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in needed_by("torch", "transformers", "sam2", "pillow", "numpy"):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(distribution.locate_file(top))))
    return folder / "bin/python"


def needed_by(*names: str) -> set[str]:
    """These packages and all that their metadata asks for, without extras, of what is installed: pyproject.toml keeps
    torchvision out."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        if (name := canonicalize_name(waiting.pop())) in found:
            continue
        try:
            needs = map(Requirement, importlib.metadata.requires(name) or ())
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        waiting += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def local_folder(exported_uri, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    storage.download_folder(exported_uri, folder)
    return folder


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))


def test_the_folder_is_complete(exported_uri):
    manifest = read_model_manifest(exported_uri)
    code = {f"{part}_sa2va.py" for part in ("configuration", "modeling", "generation", "processing", "pixels")}
    assert code | {"grounding_sam2.py", "model.safetensors", "config.json", "tokenizer.json", "README.md"} <= set(
        manifest["files"]
    )
    assert {"base_sha256", "checkpoint_sha256", "data_sha256", "threshold", "train_metrics"} <= set(manifest)


def test_weights_are_bf16_without_adapters(local_folder):
    config = json.loads((local_folder / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert config["auto_map"]["AutoModel"] == "modeling_sa2va.Sa2VAModel"
    model = load_model(local_folder, dtype=torch.float32).model
    assert not [name for name, _ in model.named_parameters() if "lora" in name or "trainable_tokens" in name]


def test_it_equals_its_checkpoint(trained, exported_uri, image):
    """The checkpoint, merged and its weights rounded to bf16 like the export's, gives the same masks bit by bit."""
    model, processor = merged_model(find_checkpoint(trained[0]))
    model.load_state_dict({name: tensor.bfloat16().float() for name, tensor in model.state_dict().items()})
    model.eval()
    exported = load_model(exported_uri, dtype=torch.float32)
    ours, theirs = (
        segment(m, p, [Request(image, "Please segment the vessel.", "Sure, [SEG].")])[0]
        for m, p in ((model, processor), (exported.model, exported.processor))
    )
    assert torch.equal(ours.mask_logits, theirs.mask_logits)


def test_it_answers_in_an_environment_without_this_package(local_folder, image, clean_python, tmp_path):
    wide = Image.fromarray(np.asarray(image)[..., 0] * np.uint16(90) + np.uint16(7_000))  # which `convert("RGB")` clips
    wide.save(tmp_path / "image.png")
    command = [str(clean_python), "-c", CHAT, str(local_folder), "image.png", QUESTION, "out.npz"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    ours = Sa2VAPredictor.from_pretrained(local_folder).predict([Query(wide, QUESTION)], max_new_tokens=32)[0]
    theirs = np.load(tmp_path / "out.npz")
    assert str(theirs["text"]) == ours.text
    np.testing.assert_array_equal(theirs["masks"].reshape(-1, 90, 120), ours.masks)


def test_a_changed_weight_file_is_refused(local_folder, tmp_path):
    storage.download_folder(str(local_folder), tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match=r"model\.safetensors does not have the content"):
        load_model(tmp_path / "model")
