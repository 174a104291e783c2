"""Fixed questions to a model: two images drawn here, always the same, and what is asked about them.

Shapes: N masks of one answer, H W pixels of the image.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

PROMPT, ANSWER = "Please segment blood vessels in this image.", "Sure, [SEG]."
ANSWERS_FILE = "answers.npz"
MAX_NEW_TOKENS = 32
_SIZES = ((512, 512), (256, 512))  # (H, W): one tile, and two with a thumbnail
_NUM_LINES = 7


ProbeAnswers = Mapping[str, np.ndarray]
"""What `ask` gives."""


def probe_images() -> list[Image.Image]:
    """Dark lines on bright ground and bright lines on dark, 2 to 9 px wide, with noise: nobody's vessels. RGB."""
    return [_draw(*size, seed, dark=seed == 0) for seed, size in enumerate(_SIZES)]


def answering_device() -> torch.device:
    """Where this process answers: on the GPU if it was left one, in true float32 all the same (a GPU's convolutions
    would round to 10 bits), as two models are to differ by their weights alone."""
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def ask(model, processor, segment: Callable, request: type) -> dict[str, np.ndarray]:
    """What a model says about each image i, and what it draws when the usual answer is put into its mouth, so that
    there is a mask to be compared whatever it says.

    Args:
        segment, request: of `generation_sa2va`, from wherever the model's code comes.

    Returns:
        `text_i`, `logits_i` (N, H, W) float32.
    """
    answers: dict[str, np.ndarray] = {}
    for index, image in enumerate(probe_images()):
        requests = [request(image, PROMPT), request(image, PROMPT, ANSWER)]
        spoken, drawn = segment(model, processor, requests, max_new_tokens=MAX_NEW_TOKENS)
        answers |= {f"text_{index}": np.array(spoken.text), f"logits_{index}": drawn.mask_logits.float().cpu().numpy()}
    return answers


def save_answers(folder: Path, answers: ProbeAnswers) -> None:
    """Writes `answers.npz`, which `read_answers` reads."""
    np.savez(folder / ANSWERS_FILE, allow_pickle=False, **answers)


def read_answers(folder: Path) -> dict[str, np.ndarray]:
    """What `save_answers` has written; empty where nothing was."""
    return dict(np.load(folder / ANSWERS_FILE)) if (folder / ANSWERS_FILE).exists() else {}


def mask_iou(one: np.ndarray, other: np.ndarray) -> float:
    """IoU of the masks of two logits (N, H, W), at probability one half; 1 where both are empty."""
    union = np.count_nonzero((one > 0) | (other > 0))
    return float(np.count_nonzero((one > 0) & (other > 0)) / union) if union else 1.0


def _draw(height: int, width: int, seed: int, dark: bool) -> Image.Image:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / height
    ink = np.zeros((height, width))
    for line in range(_NUM_LINES):
        amplitude, waves, phase = rng.uniform(0.02, 0.15), rng.uniform(0.5, 2), rng.uniform(0, 2 * np.pi)
        middle = (line + 0.5) / _NUM_LINES + amplitude * np.sin(2 * np.pi * waves * x + phase)
        half_width = rng.uniform(2, 9) / 2 / height
        ink = np.maximum(ink, np.clip((half_width - np.abs(y - middle)) * height + 0.5, 0, 1))
    ground = 0.6 + 0.15 * np.sin(3 * x + 2 * y) + rng.normal(0, 0.03, (height, width))
    grey = ground - 0.4 * ink if dark else 1 - ground + 0.4 * ink
    return Image.fromarray((np.clip(grey, 0, 1) * 255).astype(np.uint8)).convert("RGB")
