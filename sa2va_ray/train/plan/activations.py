"""Bytes of what a forward pass keeps for its backward pass, and of what it needs for a moment only.

The count for a transformer layer follows arXiv 2205.05198, section 4: every tensor that an operation saves, once. Other
than there, the weights are frozen (a matrix product with a frozen weight saves nothing), attention is fused (no L x L
matrix), and each adapted layer saves the input of its adapter. The counts of SAM 2 are measured: see the tests.

Letters: L tokens of the micro batch, D width, F width of the MLP, R rank, V vocabulary, b bytes of a value.
"""

from dataclasses import dataclass

from sa2va_ray.train.plan.sizes import ModelSizes

_NUM_TOKENS_PER_ANSWER = 16
_DECODER_BYTES = (640, 780)  # kept per place of the low-resolution mask: for an image, and for each object, in bf16
_TRUNK_BYTES = 32  # kept per place, channel and block of Hiera, in bf16
_TRUNK_STAGE_BYTES = 52  # more, for each value given by the first block of a later stage: it reads two
_TRUNK_BACKWARD_BYTES = 36  # while a block's backward pass runs; 33 on an H200
_TRUNK_WORKING_BYTES = 30  # while a block runs: its input and its norm in float32, the MLP's hidden layer twice in bf16
_VIT_WORKING_VALUES = 14  # while a layer runs, in widths: two residuals, q, k, v, their result, the MLP's 4 twice


@dataclass(frozen=True)
class SampleSize:
    """Sizes of each sample of the largest micro batch."""

    num_tokens: int
    """Length of the sequence."""
    num_tiles: int
    num_objects: int = 1

    @property
    def num_supervised_tokens(self) -> int:
        return self.num_objects * _NUM_TOKENS_PER_ANSWER


def layer_bytes_per_token(sizes: ModelSizes, compiled: bool = False) -> float:
    """Bytes that one layer of the language model keeps for its backward pass, for each token. A compiled layer computes
    again what takes one pass over its values: what the norms compute in float32, repeated k and v, the activation."""
    llm, lora, b = sizes.architecture.llm_config, sizes.trainable, sizes.dtype.itemsize
    d, f, heads = llm.hidden_size, llm.intermediate_size, llm.num_attention_heads
    q = heads * (getattr(llm, "head_dim", None) or d // heads)
    norms = 2 * d * (b if compiled else 4)  # both compute in float32
    k_and_v = 2 * q * llm.num_key_value_heads // heads if compiled else 2 * q  # repeated for all heads
    attention = (q + k_and_v + q) * b + 4 * heads  # q; k and v; result; log-sum-exp
    mlp = (2 if compiled else 3) * f * b  # gate, its activation, up
    # Inputs of the adapters of q, k, v, o, gate, up, down: with dropout each has its own, and a mask of bytes; without,
    # q, k, v share one, gate and up another, and o's is the attention's result.
    adapters = (5 * d + q + f) * (b + 1) if lora.lora_dropout > 0 else (2 * d + f) * b
    return norms + attention + mlp + adapters + 7 * lora.lora_rank * b


def language_model_bytes(sizes: ModelSizes, tokens: int, checkpointing: bool, compiled: bool = False) -> int:
    """Bytes that all layers of the language model keep; with checkpointing only those of their inputs."""
    llm, b = sizes.architecture.llm_config, sizes.dtype.itemsize
    per_layer = llm.hidden_size * b if checkpointing else layer_bytes_per_token(sizes, compiled)
    final_norm = 4 * llm.hidden_size
    return int(tokens * (llm.num_hidden_layers * per_layer + final_norm))


def projector_bytes(sizes: ModelSizes, num_tiles: int) -> int:
    """Bytes that the projector keeps: its input, the input's norm, its hidden layer before and after the activation."""
    architecture, b = sizes.architecture, sizes.dtype.itemsize
    patch_width = int(architecture.vision_config.hidden_size / architecture.downsample_ratio**2)
    return num_tiles * architecture.tokens_per_tile * b * (2 * patch_width + 3 * architecture.hidden_size)


def logits_bytes(sizes: ModelSizes, supervised_tokens: int) -> int:
    """Bytes of the (M, V) logits, in float32 as well, their log-softmax and both gradients. Only supervised tokens have
    logits."""
    b = sizes.dtype.itemsize
    return supervised_tokens * sizes.architecture.llm_config.vocab_size * (b + 4 + 4 + 4 + b)


def merged_head_bytes(sizes: ModelSizes) -> int:
    """Bytes that the language model's head takes in the backward pass. peft puts the new rows into a copy of the (V, D)
    head for each pass, which the backward pass needs again, as well as a gradient of that size; a head that trains as a
    whole has the gradient only."""
    copies = 2 if sizes.trainable.embeddings == "new_tokens" else 1
    llm = sizes.architecture.llm_config
    return copies * llm.vocab_size * llm.hidden_size * sizes.dtype.itemsize


def mask_decoder_bytes(sizes: ModelSizes, num_images: int, num_objects: int) -> int:
    """Bytes that SAM 2's mask decoder keeps. `num_objects`: of all images together."""
    places = (sizes.architecture.grounding_size // 4) ** 2
    of_image, of_object = _DECODER_BYTES
    return places * (of_image * num_images + of_object * num_objects) * sizes.dtype.itemsize // 2


def image_encoder_bytes(sizes: ModelSizes, num_images: int, checkpointing: bool) -> int:
    """Bytes that SAM 2's image encoder keeps where it trains; 0 where it is frozen."""
    if sizes.trainable.image_encoder == "frozen":
        return 0
    stages = _trunk_values(sizes)
    if checkpointing:
        return num_images * sum(n * values for n, values in stages) * sizes.dtype.itemsize * 2
    kept = _TRUNK_BYTES * sum(n * values for n, values in stages)
    kept += _TRUNK_STAGE_BYTES * sum(values for _, values in stages[1:])
    return num_images * kept * sizes.dtype.itemsize // 2


def image_encoder_working_bytes(sizes: ModelSizes, num_images: int) -> int:
    """Bytes that SAM 2's image encoder takes while its first blocks run, which have the most places. A block that is
    computed again keeps its part as well."""
    trunk = sizes.architecture.grounding_config["trunk"]
    values = (sizes.architecture.grounding_size // 4) ** 2 * trunk["embed_dim"]
    per_value = _TRUNK_WORKING_BYTES if sizes.trainable.image_encoder == "frozen" else _TRUNK_BACKWARD_BYTES
    return num_images * values * per_value * sizes.dtype.itemsize // 2


def vision_encoder_working_bytes(sizes: ModelSizes, num_tiles: int) -> int:
    """Bytes that InternViT takes while one of its layers runs."""
    vision = sizes.architecture.vision_config
    places = 4 * sizes.architecture.tokens_per_tile + 1
    return num_tiles * places * vision.hidden_size * _VIT_WORKING_VALUES * sizes.dtype.itemsize


def vision_encoder_bytes(sizes: ModelSizes, num_tiles: int, checkpointing: bool) -> int:
    """Bytes that InternViT keeps where it has adapters; 0 where it is frozen."""
    if sizes.trainable.vision_encoder == "frozen":
        return 0
    vision, b = sizes.architecture.vision_config, sizes.dtype.itemsize
    # Both norms in float32; q, k, v and the result; the MLP's hidden layer twice; inputs of the adapters with masks.
    width, hidden = vision.hidden_size, vision.intermediate_size
    per_place = 8 * width + (4 * width + 2 * hidden) * b + (5 * width + hidden) * (b + 1)
    places = num_tiles * (4 * sizes.architecture.tokens_per_tile + 1)
    return vision.num_hidden_layers * places * (width * b if checkpointing else per_place)


def _trunk_values(sizes: ModelSizes) -> list[tuple[int, int]]:
    """The blocks of each of Hiera's stages, and the values, places x channels, that each of them gives: a stage halves
    the side and doubles the channels."""
    trunk, side = sizes.architecture.grounding_config["trunk"], sizes.architecture.grounding_size // 4
    return [(n, (side >> i) ** 2 * (trunk["embed_dim"] << i)) for i, n in enumerate(trunk["stages"])]
