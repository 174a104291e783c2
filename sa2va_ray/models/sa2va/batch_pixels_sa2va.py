"""The pixels of a batch of images, as the vision encoder and SAM 2 see them.

On a GPU each image is uploaded as it is and resized there, those of one size together: on one CPU thread a picture of
512 px takes 18 ms, as long as the whole model does on an H200. The bits are the same (see `resize_sa2va`).

Shapes: B images, T tiles, S side of a tile, G side of SAM 2's image, H W pixels of an image.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .processing_sa2va import Sa2VAProcessor, normalize_tiles
from .resize_sa2va import UnknownOrderError, resize

RgbPicture = Image.Image | np.ndarray

_NO_TILES = torch.zeros(0, 3, 1, 1)


class BatchPixels:
    """Of B images, RGB or (H, W, 3) uint8, and of any size; None stands for no image and has no tiles."""

    def __init__(
        self,
        processor: Sa2VAProcessor,
        images: Sequence[RgbPicture | None],
        device: torch.device,
        with_pil: bool | None = None,
    ):
        """
        Args:
            with_pil: resize with PIL, which on the CPU is quicker and therefore the default there.
        """
        self._with_pil = device.type == "cpu" if with_pil is None else with_pil
        self._processor, self._device, self._num_images = processor, device, len(images)
        self._images = {number: image for number, image in enumerate(images) if image is not None}
        self._stacks = [] if self._with_pil else _stacks(self._images, device)

    def tiles(self) -> list[Tensor]:
        """(T, 3, S, S) float32 of each image, ImageNet-normalised."""
        tiles = [_NO_TILES] * self._num_images
        if self._with_pil:
            for number in self._images:
                tiles[number] = self._processor.image_tiles(self._picture(number))
        for numbers, stack in self._stacks:
            made = normalize_tiles(self._stack_tiles(numbers, stack).flatten(0, 1))
            for number, of_image in zip(numbers, made.unflatten(0, (len(numbers), -1)), strict=True):
                tiles[number] = of_image
        return tiles

    def grounding(self, numbers: Sequence[int]) -> Tensor:
        """(len(numbers), 3, G, G) uint8, on the device, of the images of these numbers."""
        if self._with_pil:
            made_by_pil = [self._processor.grounding_image(self._picture(number)) for number in numbers]
            return torch.stack(made_by_pil).to(self._device)
        side = self._processor.config.grounding_size
        made: dict[int, Tensor] = {}
        for stacked, stack in self._stacks:
            places = [place for place, number in enumerate(stacked) if number in numbers]
            if places:
                wanted = [stacked[place] for place in places]
                resized = self._resized(wanted, stack if wanted == stacked else stack[places], side, side)
                made |= dict(zip(wanted, resized, strict=True))
        return torch.stack([made[number] for number in numbers])

    def _stack_tiles(self, numbers: Sequence[int], stack: Tensor) -> Tensor:
        """(B, 3, H, W) images of one size -> (B, T, 3, S, S) uint8: tiles row by row, then the thumbnail."""
        config = self._processor.config
        size = config.tile_size
        columns, rows = self._processor.tile_grid(stack.shape[-1], stack.shape[-2])
        resized = self._resized(numbers, stack, columns * size, rows * size)
        tiles = resized.view(-1, 3, rows, size, columns, size).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        if config.use_thumbnail and columns * rows > 1:
            tiles = torch.cat([tiles, self._resized(numbers, stack, size, size).unsqueeze(1)], dim=1)
        return tiles

    def _resized(self, numbers: Sequence[int], stack: Tensor, width: int, height: int) -> Tensor:
        try:
            return resize(stack, width, height)
        except UnknownOrderError:
            resized = [np.array(self._picture(number).resize((width, height))) for number in numbers]
            return torch.from_numpy(np.stack(resized)).to(self._device).permute(0, 3, 1, 2)

    def _picture(self, number: int) -> Image.Image:
        image = self._images[number]
        return image if isinstance(image, Image.Image) else Image.fromarray(image)


def picture_size(image: RgbPicture) -> tuple[int, int]:
    """(H, W)"""
    return (image.height, image.width) if isinstance(image, Image.Image) else (image.shape[0], image.shape[1])


def _stacks(images: dict[int, RgbPicture], device: torch.device) -> list[tuple[list[int], Tensor]]:
    """The numbers and the pixels (B, 3, H, W) uint8 of the images of each size."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for number, image in images.items():
        by_size.setdefault(picture_size(image), []).append(number)
    stacks = []
    for numbers in by_size.values():
        pixels = torch.from_numpy(np.stack([np.asarray(images[number]) for number in numbers]))
        stacks.append((numbers, pixels.to(device).permute(0, 3, 1, 2).contiguous()))
    return stacks
