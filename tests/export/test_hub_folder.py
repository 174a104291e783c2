"""The exported folder: complete, loadable by transformers alone, and the same model as its checkpoint."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.manifest import read_manifest
from sa2va_ray.models.checkpoint import find_checkpoint, load_trained_model
from sa2va_ray.models.exported import MODEL_MANIFEST, load_exported
from sa2va_ray.models.sa2va.generation_sa2va import segment

LOAD_WITH_TRANSFORMERS = """
import sys
import numpy as np
from PIL import Image
from transformers import AutoModel, AutoTokenizer

folder, image, out = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True).float().eval()
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
assert "sa2va_ray" not in sys.modules
result = model.predict_forward(image=Image.open(image), text="<image>\\nPlease segment it.", tokenizer=tokenizer)
np.savez(out, text=result["prediction"], masks=np.array(result["prediction_masks"]))
"""


@pytest.fixture(scope="module")
def local_folder(exported_uri, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    storage.download_folder(exported_uri, folder)
    return folder


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))


def test_the_folder_is_complete(exported_uri):
    manifest = read_manifest(exported_uri, MODEL_MANIFEST)
    five = {f"{part}_sa2va.py" for part in ("configuration", "modeling", "generation", "processing")}
    assert five | {"grounding_sam2.py", "model.safetensors", "config.json", "tokenizer.json", "README.md"} <= set(
        manifest["files"]
    )
    assert {"base_sha256", "checkpoint_sha256", "data_sha256", "threshold", "train_metrics"} <= set(manifest)


def test_weights_are_bf16_without_adapters(local_folder):
    config = json.loads((local_folder / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert config["auto_map"]["AutoModel"] == "modeling_sa2va.Sa2VAModel"
    model = load_exported(str(local_folder), "cpu", torch.float32).model
    assert not [name for name, _ in model.named_parameters() if "lora" in name or "trainable_tokens" in name]


def test_it_equals_its_checkpoint(trained, exported_uri, image):
    """The checkpoint, merged and its weights rounded to bf16 like the export's, gives the same masks bit by bit."""
    model, processor, _, _ = load_trained_model(find_checkpoint(trained[0]))
    model.load_state_dict({name: tensor.bfloat16().float() for name, tensor in model.state_dict().items()})
    model.eval()
    exported = load_exported(exported_uri, "cpu", torch.float32)
    ours, theirs = (
        segment(m, p, [image], ["Please segment the vessel."], ["Sure, [SEG]."])[0]
        for m, p in ((model, processor), (exported.model, exported.processor))
    )
    assert torch.equal(ours.mask_logits, theirs.mask_logits)


def test_transformers_loads_it_without_this_package(local_folder, image, tmp_path):
    image.save(tmp_path / "image.png")
    command = [sys.executable, "-c", LOAD_WITH_TRANSFORMERS, str(local_folder), "image.png", "out.npz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    exported = load_exported(str(local_folder), "cpu", torch.float32)
    ours = segment(exported.model, exported.processor, [image], ["<image>\nPlease segment it."], [None])[0]
    theirs = np.load(tmp_path / "out.npz")
    assert str(theirs["text"]) == ours.text
    masks = theirs["masks"].reshape(-1, 90, 120)
    np.testing.assert_array_equal(masks, (ours.mask_logits.sigmoid() > 0.5).numpy().reshape(-1, 90, 120))


def test_a_changed_weight_file_is_refused(local_folder, tmp_path):
    storage.download_folder(str(local_folder), tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match=r"model\.safetensors does not have the content"):
        load_exported(str(tmp_path / "model"), "cpu", torch.float32)
