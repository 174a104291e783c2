"""The parts of a Sa2VA: the one table of what is told apart in it, and questions to that table.

Loading, training, plan, engine and export ask here what a tensor belongs to, where adapters go, and how ZeRO-3 gathers
a part; the names of sub-modules stand nowhere else but in the model itself and in `loading/key_layouts.py`. A language
model or a grounding model with other inner names is another row.
"""

import re
from dataclasses import dataclass

_SAM2 = "grounding_encoder.sam2_model"
_ADAPTER = re.compile(r"\.lora_[AB]\.")  # peft's own names of what it adds
_NEW_ROWS = re.compile(r"trainable_tokens_delta")

OTHER_MODULE = "other"


@dataclass(frozen=True)
class Part:
    """One row of the table.

    Attributes:
        module: path of the sub-module that it is.
        label: its name in the plan of a run.
        reported_as: the name under which loading and exporting count its tensors.
        group: group of trained parameters that it belongs to where it trains itself, and not by adapters only.
        parameters: parameters of the model that belong to it and lie outside `module`.
        adapted: regular expression of the paths, within `module`, of the linear layers that take LoRA adapters.
        layers: path, within `module`, of its list of layers, for what treats them one by one.
        unused: what within `module` gives nothing to Sa2VA, so that it never gets a gradient.
        needs_masks: whether its gradient comes from masks alone.
    """

    module: str
    label: str
    reported_as: str
    group: str | None = None
    parameters: tuple[str, ...] = ()
    adapted: str | None = None
    layers: str | None = None
    unused: tuple[str, ...] = ()
    needs_masks: bool = False

    @property
    def adapter_group(self) -> str:
        """Group of trained parameters that its adapters belong to."""
        return f"lora of {self.module.partition('.')[0]}"

    @property
    def adapter_targets(self) -> str:
        """Regular expression of the full paths of the layers that take adapters."""
        assert self.adapted, f"{self.label} takes no adapters"
        return rf"{re.escape(self.module)}\.{self.adapted}"

    @property
    def layers_module(self) -> str:
        """Full path of its list of layers."""
        assert self.layers, f"{self.label} has no list of layers"
        return f"{self.module}.{self.layers}"

    def holds(self, name: str) -> bool:
        """Whether a parameter of this name belongs to it, unless an earlier row of the table holds it."""
        return name.startswith(f"{self.module}.") or name in self.parameters

    def is_unused(self, name: str) -> bool:
        """Whether a parameter of this name is one that never gets a gradient."""
        return name.startswith(tuple(f"{self.module}.{each}" for each in self.unused))


VISION_ENCODER = Part(
    module="vision_model",
    label="vision encoder",
    reported_as="vision_model",
    adapted=r"encoder\..*\.(q_proj|k_proj|v_proj|projection_layer|fc1|fc2)",
    layers="encoder.layer",
)
PROJECTOR = Part(module="mlp1", label="projector", reported_as="mlp1", group="projector")
TOKEN_EMBEDDING = Part(
    module="language_model.model.embed_tokens",
    label="token embedding",
    reported_as="language_model",
    group="embeddings",
)
LANGUAGE_MODEL = Part(
    module="language_model.model",
    label="language model layers",
    reported_as="language_model",
    adapted=r"layers\..*\.(q|k|v|o|gate|up|down)_proj",
    layers="layers",
)
LM_HEAD = Part(
    module="language_model.lm_head", label="language model head", reported_as="language_model", group="embeddings"
)
SEG_HEAD = Part(
    module="text_hidden_fcs",
    label="[SEG] head",
    reported_as="text_hidden_fcs",
    group="text_hidden_fcs",
    needs_masks=True,
)
IMAGE_ENCODER = Part(
    module=f"{_SAM2}.image_encoder",
    label="SAM 2 image encoder",
    reported_as="grounding_encoder",
    group="image_encoder",
    parameters=(f"{_SAM2}.no_mem_embed",),
    adapted=r"trunk\.blocks\..*\.(qkv|attn\.proj|mlp\.layers\.\d)",
    layers="trunk.blocks",
    needs_masks=True,
)
MASK_DECODER = Part(
    module=f"{_SAM2}.sam_mask_decoder",
    label="SAM 2 mask decoder",
    reported_as="mask_decoder",
    group="mask_decoder",
    unused=("iou_prediction_head.", "pred_obj_score_head.", "output_hypernetworks_mlps.0."),
    needs_masks=True,
)
GROUNDING_REST = Part(module=_SAM2, label="SAM 2 memory and prompts", reported_as="grounding_encoder")

PARTS = (
    VISION_ENCODER,
    PROJECTOR,
    TOKEN_EMBEDDING,
    LANGUAGE_MODEL,
    LM_HEAD,
    SEG_HEAD,
    IMAGE_ENCODER,
    MASK_DECODER,
    GROUNDING_REST,
)
"""All parts; the first that holds a parameter is the one it belongs to."""

ENCODERS = {"vision_encoder": VISION_ENCODER, "image_encoder": IMAGE_ENCODER}
"""Parts that see pixels, by their keys in `TrainableConfig`. Frozen ones need no backward pass, and ZeRO-3 gathers
each in one piece."""

MODULES = tuple(reversed(dict.fromkeys(part.reported_as for part in reversed(PARTS))))
"""Names under which tensors are counted, in the order of the last part of each."""

ADAPTERS_LABEL, NEW_ROWS_LABEL = "LoRA adapters", "new-token rows"
PLAN_LABELS = (ADAPTERS_LABEL, NEW_ROWS_LABEL, *(part.label for part in PARTS))
"""What `plan_label` gives, in the order in which a plan lists it."""

EMBEDDING_WEIGHT, LM_HEAD_WEIGHT = f"{TOKEN_EMBEDDING.module}.weight", f"{LM_HEAD.module}.weight"
GROUNDING_PREFIX = f"{_SAM2}."


def part_of(name: str) -> Part:
    """The part that a parameter of the model belongs to, with adapters or without."""
    return next(part for part in PARTS if part.holds(name))


def module_of(name: str) -> str:
    """The name under which a tensor is counted, one of `MODULES`, or `OTHER_MODULE` for names that we do not know."""
    for part in PARTS:
        if part.holds(name):
            return part.reported_as
    first = name.partition(".")[0]
    return first if first in MODULES else OTHER_MODULE


def plan_label(name: str) -> str:
    """What a parameter is called in the plan of a run, one of `PLAN_LABELS`."""
    if _ADAPTER.search(name):
        return ADAPTERS_LABEL
    return NEW_ROWS_LABEL if _NEW_ROWS.search(name) else part_of(name).label


def trained_group(name: str) -> str:
    """The group that a trained parameter is watched in."""
    part = part_of(name)
    group = part.adapter_group if _ADAPTER.search(name) else part.group
    assert group, f"{name} does not train itself"
    return group


def needs_masks(group: str) -> bool:
    """Whether the gradient of a group of trained parameters comes from masks alone."""
    return any(part.needs_masks for part in PARTS if group in (part.group, part.adapter_group))
