"""How many images fit in a batch with what is free of a GPU's memory."""

from collections.abc import Callable, Sequence

import torch
from PIL import Image

from sa2va_ray.predict.predictor import Query

_SIZE = (1154, 866)  # of an image of one megapixel that is cut into the most tiles, 4 by 3
_FEW, _MORE = 1, 4
_SHARE = 0.9  # the rest is for pieces that are free and too small


def images_that_fit(predict: Callable[[Sequence[Query]], object], prompt: str, device: torch.device) -> int:
    """The most images of one megapixel that `predict` has room for, 1 at least, by what one and four of them take.
    What fits by that may fail to, if the free memory lies in pieces: a batch that fails has to be answered in parts.

    Args:
        prompt: a usual one.
    """
    torch.cuda.empty_cache()
    free = _SHARE * free_bytes(device)
    try:
        few, more = (_peak_bytes(predict, number, prompt, device) for number in (_FEW, _MORE))
    except torch.OutOfMemoryError:
        return 1
    of_one = max(1.0, (more - few) / (_MORE - _FEW))
    return max(1, int(_FEW + (free - few) / of_one))


def free_bytes(device: torch.device) -> int:
    """What this process can still take: of the whole GPU, or of the share that it may have of it. What it has already
    is not counted, used or not: CUDA graphs keep memory that nothing else gets."""
    free, total = torch.cuda.mem_get_info(device)
    share = int(total * torch.cuda.get_per_process_memory_fraction(device))
    return min(free, share - torch.cuda.memory_reserved(device))


def _peak_bytes(predict: Callable[[Sequence[Query]], object], number: int, prompt: str, device: torch.device) -> int:
    """What `number` images take beyond what is allocated already."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    predict([Query(Image.new("RGB", _SIZE), prompt) for _ in range(number)])
    return torch.cuda.max_memory_allocated(device) - before
