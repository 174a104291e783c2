"""How many images fit in a batch with what is free of a GPU's memory."""

from collections.abc import Callable, Sequence

import torch
from PIL import Image

from sa2va_ray.predict.predictor import Query

_SIZE = (1154, 866)  # of an image of one megapixel that is cut into the most tiles, 4 by 3
_FEW, _MORE = 1, 4
_SHARE = 0.9  # the rest is for pieces that are free and too small


def images_that_fit(
    predict: Callable[[Sequence[Query]], object], prompt: str, device: torch.device, wanted: int
) -> int:
    """The most images of one megapixel that `predict` has room for, 1 at least: by what one and four of them take, and
    then, up to `wanted` of them, by trying. Large batches run otherwise than small ones, which compiled models have
    graphs for, so what four take says too little: of 16 images that should have fitted in 24 GB, 8 did.

    Args:
        prompt: a usual one.
        wanted: a number that is worth the second or two of a trial.
    """
    torch.cuda.empty_cache()
    free = _SHARE * free_bytes(device)
    try:
        few, more = (_peak_bytes(predict, number, prompt, device) for number in (_FEW, _MORE))
    except torch.OutOfMemoryError:
        return 1
    of_one = max(1.0, (more - few) / (_MORE - _FEW))
    most = max(1, int(_FEW + (free - few) / of_one))
    tried = min(most, wanted)
    while tried > _MORE and not _fits(predict, tried, prompt):
        most = tried = max(_MORE, tried // 2)
    return most


def _fits(predict: Callable[[Sequence[Query]], object], number: int, prompt: str) -> bool:
    try:
        predict(_queries(number, prompt))
    except torch.OutOfMemoryError:
        return False
    return True


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
    predict(_queries(number, prompt))
    return torch.cuda.max_memory_allocated(device) - before


def _queries(number: int, prompt: str) -> list[Query]:
    return [Query(Image.new("RGB", _SIZE), prompt) for _ in range(number)]
