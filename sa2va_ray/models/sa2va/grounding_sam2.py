"""SAM 2 as Sa2VA uses it: one image encoding, prompted by language embeddings. The only file that imports `sam2`.

The package's modules are composed as its own configs compose SAM 2.0 (not 2.1). Two things differ from stock SAM 2:
a language embedding stands in for clicks, and a mask is kept whatever the object score says
(docs/en/model_spec.md section 4).

Shapes: B images, N objects, D width of SAM 2, S side of its input, h = S / 4 side of the low-resolution masks.
"""

import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_sa2va import IMAGE_MEAN, IMAGE_STD

with warnings.catch_warnings():  # sam2 imports hydra, which calls what OmegaConf 2.4 deprecates: 15 lines a process
    warnings.simplefilter("ignore", UserWarning)
    from sam2.modeling.backbones.hieradet import Hiera
    from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
    from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
    from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
    from sam2.modeling.position_encoding import PositionEmbeddingSine
    from sam2.modeling.sam.transformer import RoPEAttention
    from sam2.modeling.sam2_base import SAM2Base


class GroundingEncoder(nn.Module):
    """Images and language embeddings in, mask logits out."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.sam2_model = build_sam2(config)
        self.embedding_size = config["neck"]["d_model"]

    def forward(self, pixel_values: Tensor, seg_embeddings: Tensor, image_index: Tensor) -> tuple[Tensor, Tensor]:
        """Each image is encoded once, then all objects of all images are decoded in one call.

        Args:
            pixel_values: (B, 3, S, S), normalised.
            seg_embeddings: (N, D).
            image_index: (N,) int64, which image an object belongs to.

        Returns:
            Mask logits (N, h, h) float32, and predicted IoU (N,) in [0, 1].
        """
        fine, middle, coarse = self.encode(pixel_values)
        return self.decode(fine[image_index], middle[image_index], coarse[image_index], seg_embeddings)

    def encode(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, S, S) -> features at strides 4, 8 and 16, the two fine ones through the decoder's own 1 x 1
        convolutions. No frame came before, so `no_mem_embed` is added to the coarse ones."""
        with self._low_precision(pixel_values):
            fine, middle, coarse = self.sam2_model.forward_image(pixel_values)["backbone_fpn"]
            no_memory = self.sam2_model.no_mem_embed.transpose(1, 2).unsqueeze(-1)
            return fine, middle, (coarse + no_memory).to(pixel_values.dtype)

    def decode(self, fine: Tensor, middle: Tensor, coarse: Tensor, seg_embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """For N objects, with the features of each one's image: the prompt is two padding points and the language
        embedding; of three masks the one with the largest predicted IoU is taken."""
        sam2, num_objects = self.sam2_model, len(seg_embeddings)
        with self._low_precision(coarse):
            padding_point = torch.zeros(num_objects, 1, 2, device=coarse.device)
            padding_label = torch.full((num_objects, 1), -1, dtype=torch.int32, device=coarse.device)
            # The encoder pads with a second point of its own, as in upstream's call.
            sparse, dense = sam2.sam_prompt_encoder(points=(padding_point, padding_label), boxes=None, masks=None)
            sparse = torch.cat([sparse, seg_embeddings.unsqueeze(1)], dim=1)
            masks, ious, _, _ = sam2.sam_mask_decoder(
                image_embeddings=coarse,
                image_pe=sam2.sam_prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse.to(coarse.dtype),
                dense_prompt_embeddings=dense.to(coarse.dtype),
                multimask_output=True,
                repeat_image=False,
                high_res_features=[fine, middle],
            )
        rows, best = torch.arange(num_objects, device=ious.device), ious.argmax(dim=1)
        return masks[rows, best].float(), ious[rows, best].float()

    def _low_precision(self, values: Tensor) -> AbstractContextManager:
        """SAM 2 computes coordinates in float32 whatever its weights are; autocast brings the two together, as upstream
        does (docs/en/model_spec.md section 4.1)."""
        if values.dtype == torch.float32 or values.is_meta:
            return nullcontext()
        return torch.autocast(values.device.type, dtype=values.dtype)


def normalize_grounding_images(images: Tensor, dtype: torch.dtype, constants_dtype: torch.dtype) -> Tensor:
    """ImageNet normalisation of (B, 3, S, S) uint8 -> (B, 3, S, S) `dtype`, in which all its steps are done.

    Upstream's training does them in float32 with exact constants, its inference in the model's dtype with constants
    rounded to bfloat16 (docs/en/model_spec.md section 2.2); released decoders saw the first while they were trained and
    see the second when they are used, and so do ours.
    """
    mean, std = _mean_std(images.device, dtype, constants_dtype)
    return (images.to(dtype) / 255.0 - mean) / std


@lru_cache
def _mean_std(device: torch.device, dtype: torch.dtype, constants_dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Each (3, 1, 1)."""
    constants = (torch.tensor(each, dtype=constants_dtype, device=device) for each in (IMAGE_MEAN, IMAGE_STD))
    return tuple(each.to(dtype).view(3, 1, 1) for each in constants)


def upsample_mask_logits(mask_logits: Tensor, grounding_size: int, height: int, width: int) -> Tensor:
    """(N, h, h) -> (N, height, width), by way of the model's own resolution as upstream does it: one direct step moves
    about 1 % of the boundary pixels (docs/en/model_spec.md section 2.3)."""
    logits = mask_logits.unsqueeze(1)
    logits = F.interpolate(logits, size=(grounding_size, grounding_size), mode="bilinear", align_corners=False)
    return F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False).squeeze(1)


def build_sam2(config: dict[str, Any]) -> SAM2Base:
    """SAM 2.0 with the sizes of `config` (see `configuration_sa2va.HIERA_LARGE`) and random weights."""
    width, size = config["neck"]["d_model"], config["image_size"]
    trunk = Hiera(**{key: tuple(value) if isinstance(value, list) else value for key, value in config["trunk"].items()})
    neck = FpnNeck(
        position_encoding=_sine(width),
        d_model=width,
        backbone_channel_list=list(config["neck"]["backbone_channel_list"]),
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )
    sam2 = SAM2Base(
        image_encoder=ImageEncoder(trunk=trunk, neck=neck, scalp=1),
        memory_attention=_build_memory_attention(
            config["memory_attention"], width, config["memory_encoder"], size // 16
        ),
        memory_encoder=_build_memory_encoder(config["memory_encoder"], width),
        num_maskmem=7,
        image_size=size,
        sigmoid_scale_for_mem_enc=20.0,
        sigmoid_bias_for_mem_enc=-10.0,
        use_mask_input_as_output_without_sam=True,
        directly_add_no_mem_embed=True,
        use_high_res_features_in_sam=True,
        multimask_output_in_sam=True,
        iou_prediction_use_sigmoid=True,
        use_obj_ptrs_in_encoder=True,
        add_tpos_enc_to_obj_ptrs=False,
        only_obj_ptrs_in_the_past_for_eval=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
        fixed_no_obj_ptr=True,
        multimask_output_for_tracking=True,
        use_multimask_token_for_obj_ptr=True,
        multimask_min_pt_num=0,
        multimask_max_pt_num=1,
        use_mlp_for_obj_ptr_proj=True,
    )
    _prefer_one_mask(sam2)
    return sam2


@torch.no_grad()
def _prefer_one_mask(sam2: SAM2Base) -> None:
    """Makes the predicted IoUs of random weights constants, of which the first of the three masks has the largest. They
    choose the mask and never train, so that drawn ones changed the mask from image to image and from step to step."""
    last = sam2.sam_mask_decoder.iou_prediction_head.layers[-1]
    last.weight.zero_()
    last.bias.zero_()
    last.bias[1] = 1.0


def _build_memory_attention(
    config: dict[str, Any], width: int, encoder_config: dict[str, Any], grid: int
) -> MemoryAttention:
    rope = dict(rope_theta=10000.0, feat_sizes=[grid, grid], embedding_dim=width, num_heads=1, downsample_rate=1)
    # transformers builds models on the meta device; RoPEAttention computes its tables in its constructor and moves
    # them to the GPU, which a meta tensor cannot do (docs/en/model_spec.md section 7, trap 19).
    with torch.device("cpu"):
        layer = MemoryAttentionLayer(
            activation="relu",
            dim_feedforward=config["dim_feedforward"],
            dropout=0.1,
            pos_enc_at_attn=False,
            self_attention=RoPEAttention(**rope, dropout=0.1),
            d_model=width,
            pos_enc_at_cross_attn_keys=True,
            pos_enc_at_cross_attn_queries=False,
            cross_attention=RoPEAttention(**rope, dropout=0.1, rope_k_repeat=True, kv_in_dim=encoder_config["out_dim"]),
        )
        return MemoryAttention(d_model=width, pos_enc_at_input=True, layer=layer, num_layers=config["num_layers"])


def _build_memory_encoder(config: dict[str, Any], width: int) -> MemoryEncoder:
    block = CXBlock(dim=width, kernel_size=7, padding=3, layer_scale_init_value=1e-6, use_dwconv=True)
    return MemoryEncoder(
        in_dim=width,
        out_dim=config["out_dim"],
        position_encoding=_sine(config["out_dim"]),
        mask_downsampler=MaskDownSampler(embed_dim=width, kernel_size=3, stride=2, padding=1),
        fuser=Fuser(block, num_layers=2),
    )


def _sine(width: int) -> PositionEmbeddingSine:
    return PositionEmbeddingSine(num_pos_feats=width, normalize=True, scale=None, temperature=10000)
