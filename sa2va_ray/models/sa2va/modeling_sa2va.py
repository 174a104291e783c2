"""Sa2VA: InternViT, projector, language model, [SEG] head and SAM 2, as one model.

It is what is trained and what is exported: the modules of this folder are copied into the exported one and run there
with torch, transformers and sam2 alone.

Shapes: B images, T tiles of all images, K tokens of a tile, L tokens of a sequence, D width of the language model,
V vocabulary, N objects ([SEG] tokens) of all images, S side of a tile, G side of SAM 2's image, h = G / 4.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.internvl import InternVLVisionModel

from .configuration_sa2va import Sa2VAConfig
from .decoding_sa2va import Sampling
from .generation_sa2va import segment
from .grounding_sam2 import GroundingEncoder, normalize_grounding_images
from .pixels_sa2va import rgb_image
from .preparation_sa2va import Request
from .processing_sa2va import Sa2VAProcessor

NO_MASK: Mapping[str, None] = {"full_attention": None}
"""By kind of layer, what stands for no attention mask; transformers takes it as made already, and makes none."""


class Sa2VAOutput(NamedTuple):
    """What one forward pass gives.

    Attributes:
        logits: (M, V) at the M positions asked for, row by row of the batch.
        mask_logits: (N, h, h) float32, objects in the order of their [SEG] tokens, image by image. Where a batch has
            no [SEG] at all it holds one object that stands for nothing, and `num_objects` is 0.
        ious: (N,) SAM 2's own estimate of the mask's IoU, in [0, 1].
        num_objects: N, 0 for a batch without [SEG].
    """

    logits: Tensor
    mask_logits: Tensor
    ious: Tensor
    num_objects: int


class Sa2VAModel(PreTrainedModel):
    """Answers a prompt about an image with text and, for each [SEG] in the text, a mask."""

    config: Sa2VAConfig
    config_class = Sa2VAConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules = []  # transformers adds those of the vision encoder and of whichever language model

    def __init__(self, config: Sa2VAConfig):
        super().__init__(config)
        width = config.hidden_size
        patch_width = int(config.vision_config.hidden_size / config.downsample_ratio**2)
        self.vision_model = InternVLVisionModel(config.vision_config)
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(patch_width), nn.Linear(patch_width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.language_model = AutoModelForCausalLM.from_config(config.llm_config)
        self.grounding_encoder = GroundingEncoder(config.grounding_config)
        self.text_hidden_fcs = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, self.grounding_encoder.embedding_size), nn.Dropout(0.0)
        )
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor,
        grounding_pixel_values: Tensor,
        logits_mask: Tensor | None = None,
    ) -> Sa2VAOutput:
        """Teacher-forced pass over prompts with their answers.

        1. vision encoder and projector: tiles to image tokens
        2. token embeddings, those of `<IMG_CONTEXT>` replaced by the image tokens
        3. language model: hidden states after its final norm
        4. language model head, where logits are asked for
        5. the hidden state at each [SEG] token to a language embedding
        6. SAM 2: one image encoding per image, one mask per [SEG]

        Ids and masks of tokens are best left on the CPU: what is counted in them is then known without waiting for the
        GPU.

        Args:
            input_ids: (B, L), right-padded.
            attention_mask: (B, L) bool or int64.
            pixel_values: (T, 3, S, S), tiles of all images, normalised.
            grounding_pixel_values: (B, 3, G, G) uint8.
            logits_mask: (B, L) bool, positions whose logits are wanted; all by default.

        Raises:
            ValueError: the number of image tokens in `input_ids` is not what the tiles give.
        """
        # 1, 2
        inputs_embeds = self.embed(input_ids, self.encode_tiles(pixel_values).flatten(0, 1))
        # 3
        padding = NO_MASK if self.is_causal_throughout else attention_mask.to(inputs_embeds.device)
        hidden = self.language_model.model(
            inputs_embeds=inputs_embeds, attention_mask=padding, use_cache=False
        ).last_hidden_state
        # 4
        wanted = torch.ones_like(input_ids, dtype=torch.bool) if logits_mask is None else logits_mask
        logits = self.language_model.lm_head(hidden[_places(wanted, hidden.device)])
        # 5
        image_index, position = _places(input_ids == self.config.seg_token_id, hidden.device)
        num_objects = len(image_index)
        if num_objects == 0:
            # SAM 2 cannot decode no object; and ZeRO-3 gathers weights on all ranks together: one that skips SAM 2
            # would hang the rest.
            image_index = position = torch.zeros(1, dtype=torch.int64, device=hidden.device)
        seg_embeddings = self.text_hidden_fcs(hidden[image_index, position])
        # 6
        images = normalize_grounding_images(grounding_pixel_values, torch.float32, constants_dtype=torch.float32)
        mask_logits, ious = self.grounding_encoder(images.to(self.dtype), seg_embeddings, image_index)
        return Sa2VAOutput(logits=logits, mask_logits=mask_logits, ious=ious, num_objects=num_objects)

    @property
    def is_causal_throughout(self) -> bool:
        """Whether no token looks at what is behind it, in any layer, nor is kept from what is before it. Padding at the
        end then needs no mask (`NO_MASK`), and attention without one is quicker."""
        return set(getattr(self.language_model.config, "layer_types", ())) == NO_MASK.keys()

    def encode_tiles(self, pixel_values: Tensor) -> Tensor:
        """(T, 3, S, S) -> image tokens (T, K, D): CLS dropped, pixel shuffle, projector. T may be 0."""
        num_tiles = len(pixel_values)
        if num_tiles == 0:  # attention takes no empty batch, and ZeRO-3 no rank that leaves the encoder out
            pixel_values = pixel_values.new_zeros(1, *pixel_values.shape[1:])
        patches = self.vision_model(pixel_values=pixel_values.to(self.dtype)).last_hidden_state[:, 1:]
        return self.mlp1(pixel_shuffle(patches, self.config.downsample_ratio))[:num_tiles]

    def embed(self, input_ids: Tensor, image_tokens: Tensor) -> Tensor:
        """(B, L) ids and (M, D) image tokens, in the order of their places -> (B, L, D). Ids on the CPU spare the wait
        for the GPU, where the places would have to be counted otherwise."""
        embeddings = self.language_model.get_input_embeddings()(input_ids.to(self.device, non_blocking=True))
        places = input_ids == self.config.image_token_id
        if int(places.sum()) != len(image_tokens):
            raise ValueError(
                f"The ids hold {int(places.sum())} image tokens, the tiles give {len(image_tokens)}. "
                "A sequence was cut inside its image, or the ids were made with another tile size."
            )
        places = places.to(self.device, non_blocking=True).unsqueeze(-1)
        return embeddings.masked_scatter(places, image_tokens.to(embeddings.dtype))

    def chat(
        self,
        image: Image.Image | np.ndarray | None,
        msgs: Sequence[Mapping[str, str]],
        tokenizer,
        return_masks: bool = False,
        temperature: float | None = None,
        top_p: float = 1.0,
        max_new_tokens: int = 2048,
    ) -> str | tuple[str, list[np.ndarray]]:
        """A conversation about one image.

        Args:
            image: of any kind that `pixels_sa2va.image_pixels` takes; None for a talk without an image.
            msgs: `{"role": "user" | "assistant", "content": str}` in turns, the last one the user's.
            temperature, top_p: draw tokens; None or 0 decodes greedily.

        Returns:
            the answer without its end token; with `return_masks` also one (H, W) bool array for each [SEG] in it.

        Raises:
            TypeError: arguments in another order, or of another kind.
            ValueError: turns that do not alternate, beginning and ending with the user; an image that cannot be used.
        """
        _check_messages(msgs)
        _check_tokenizer(tokenizer, "chat(image, msgs, tokenizer)")
        roles = [message["role"] for message in msgs]
        if roles != [("user", "assistant")[i % 2] for i in range(len(msgs))] or len(msgs) % 2 == 0:
            raise ValueError(f"msgs must alternate user, assistant, ..., user; the roles are {roles}.")
        said = [message["content"] for message in msgs]
        request = Request(_rgb(image), prompt=said[-1], history=list(zip(said[:-1:2], said[1::2], strict=True)))
        processor = Sa2VAProcessor(self.config, tokenizer)
        sampling = Sampling(temperature, top_p) if temperature else None
        result = segment(self, processor, [request], sampling=sampling, max_new_tokens=max_new_tokens)[0]
        text = result.text.removesuffix(processor.template.end)
        return (text, list((result.mask_logits.sigmoid() > 0.5).cpu().numpy())) if return_masks else text

    def predict_forward(
        self,
        image: Image.Image | np.ndarray | None = None,
        text: str = "",
        tokenizer=None,
        mask_prompts: Sequence[np.ndarray] | None = None,
        past_text: str = "",
        max_new_tokens: int = 2048,
    ) -> dict[str, str | list[np.ndarray]]:
        """Upstream's call for still images.

        Args:
            image: as in `chat`.
            mask_prompts: one array (R, H, W): regions of the image that the text is about.
            past_text: the conversation so far in the template's own words.

        Returns:
            `prediction`, the answer with special tokens, and `prediction_masks`, a (1, H, W) bool array for each [SEG].

        Raises:
            TypeError: arguments in another order, or of another kind.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be a text, not {type(text).__name__}: predict_forward(image, text, tokenizer).")
        _check_tokenizer(tokenizer, "predict_forward(image, text, tokenizer)")
        regions = np.asarray(mask_prompts[0]) if mask_prompts is not None and len(mask_prompts) else None
        request = Request(_rgb(image), prompt=text, past_text=past_text, regions=regions)
        result = segment(self, Sa2VAProcessor(self.config, tokenizer), [request], max_new_tokens=max_new_tokens)[0]
        masks = (result.mask_logits.sigmoid() > 0.5).cpu().numpy()
        return {"prediction": result.text, "prediction_masks": [mask[None] for mask in masks]}

    def _init_weights(self, module: nn.Module) -> None:
        """Leaves the projector, the [SEG] head and SAM 2 as their constructors initialised them; the vision and the
        language model bring initialisations of their own."""


def _places(wanted: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """(B, L) bool -> rows and columns, int64 on `device`, of what is true in it, in order."""
    rows, columns = torch.nonzero(wanted, as_tuple=True)
    return rows.to(device, non_blocking=True), columns.to(device, non_blocking=True)


def pixel_shuffle(patches: Tensor, downsample_ratio: float) -> Tensor:
    """Merges neighbouring patches into channels, "ps_version v2" (docs/en/model_spec.md section 2.1).

    (T, side * side, C) -> (T, (side * r) ** 2, C / r ** 2) for r = `downsample_ratio`.
    """
    tiles, num_patches, channels = patches.shape
    side = int(num_patches**0.5)
    half = int(side * downsample_ratio)
    x = patches.view(tiles, side, half, int(channels / downsample_ratio)).transpose(1, 2).contiguous()
    x = x.view(tiles, half, half, int(channels / downsample_ratio**2)).transpose(1, 2)
    return x.reshape(tiles, half * half, -1)


def _check_messages(msgs) -> None:
    expected = 'msgs must be a list of {"role": str, "content": str}'
    if not isinstance(msgs, Sequence) or isinstance(msgs, str):
        raise TypeError(f"{expected}, not {type(msgs).__name__}. The order is chat(image, msgs, tokenizer).")
    for number, message in enumerate(msgs):
        if not isinstance(message, Mapping):
            raise TypeError(f"{expected}; number {number}, from 0, is of type {type(message).__name__}.")
        if not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise TypeError(f"{expected}; number {number}, from 0, lacks one of the two, or it is no text.")


def _check_tokenizer(tokenizer, order: str) -> None:
    if not hasattr(tokenizer, "convert_tokens_to_ids"):
        raise TypeError(f"tokenizer must be the model's own, not {type(tokenizer).__name__}. The order is {order}.")


def _rgb(image: Image.Image | np.ndarray | None) -> Image.Image | None:
    return None if image is None else rgb_image(image)
