"""Configuration of Sa2VA (InternVL3 family + SAM 2). Copied into an exported folder."""

from copy import deepcopy
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.internvl import InternVLVisionConfig

# SAM 2.0 hiera-large (configs/sam2/sam2_hiera_l.yaml of the package sam2). Everything that all sizes share is in
# grounding_sam2.py.
HIERA_LARGE: dict[str, Any] = {
    "image_size": 1024,
    "trunk": {
        "embed_dim": 144,
        "num_heads": 2,
        "stages": [2, 6, 36, 4],
        "global_att_blocks": [23, 33, 43],
        "window_spec": [8, 4, 16, 8],
        "window_pos_embed_bkg_spatial_size": [7, 7],
    },
    "neck": {"d_model": 256, "backbone_channel_list": [1152, 576, 288, 144]},
    "memory_attention": {"num_layers": 4, "dim_feedforward": 2048},
    "memory_encoder": {"out_dim": 64},
}
# Of the images that the vision encoder and SAM 2 learnt from, by channel, of values from 0 to 1.
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


class Sa2VAConfig(PreTrainedConfig):
    """Sizes of the five parts and the rules of image preparation.

    Args:
        vision_config: InternViT (`InternVLVisionConfig`).
        llm_config: any causal language model that `AutoConfig` knows by its `model_type`.
        grounding_config: SAM 2 as nested sizes, see `HIERA_LARGE`; other keys are ignored.
        template: chat template, a key of `processing_sa2va.TEMPLATES`.
        downsample_ratio: pixel shuffle factor per side; 0.5 makes one language token of 2 x 2 patches.
        min_dynamic_patch, max_dynamic_patch: bounds of the number of tiles of an image, thumbnail not counted.
        use_thumbnail: append the whole image as one more tile where there is more than one.
        seg_token_id, image_token_id: ids of `[SEG]` and `<IMG_CONTEXT>`, looked up in the tokenizer.
    """

    model_type = "sa2va_chat"
    sub_configs = {"vision_config": InternVLVisionConfig, "llm_config": AutoConfig}

    def __init__(
        self,
        vision_config: dict | InternVLVisionConfig | None = None,
        llm_config: dict | PreTrainedConfig | None = None,
        grounding_config: dict | None = None,
        template: str = "qwen_chat",
        downsample_ratio: float = 0.5,
        min_dynamic_patch: int = 1,
        max_dynamic_patch: int = 12,
        use_thumbnail: bool = True,
        seg_token_id: int = -1,
        image_token_id: int = -1,
        **kwargs,
    ):
        self.vision_config = (
            vision_config
            if isinstance(vision_config, PreTrainedConfig)
            else InternVLVisionConfig(**{"attention_bias": True, **(vision_config or {})})
        )
        self.llm_config = (
            llm_config
            if isinstance(llm_config, PreTrainedConfig)
            else AutoConfig.for_model(**{"model_type": "qwen2", "tie_word_embeddings": False, **(llm_config or {})})
        )
        self.grounding_config = deepcopy(grounding_config or HIERA_LARGE)
        self.template = template
        self.downsample_ratio = downsample_ratio
        self.min_dynamic_patch = min_dynamic_patch
        self.max_dynamic_patch = max_dynamic_patch
        self.use_thumbnail = use_thumbnail
        self.seg_token_id = seg_token_id
        self.image_token_id = image_token_id
        # Untied: a tied export would overwrite the trained lm_head (docs/en/model_spec.md section 7, trap 11).
        super().__init__(**{**kwargs, "tie_word_embeddings": False})

    @property
    def hidden_size(self) -> int:
        """Width D of the language model."""
        return self.llm_config.hidden_size

    @property
    def tile_size(self) -> int:
        """Side of a square tile, px."""
        return _side(self.vision_config.image_size)

    @property
    def tokens_per_tile(self) -> int:
        return int((self.tile_size // _side(self.vision_config.patch_size)) ** 2 * self.downsample_ratio**2)

    @property
    def grounding_size(self) -> int:
        """Side of the square image that SAM 2 sees, px."""
        return self.grounding_config["image_size"]

    def get_text_config(self, *args, **kwargs) -> PreTrainedConfig:
        return self.llm_config


def _side(size: int | list[int] | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else size[0]
