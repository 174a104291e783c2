"""A checkpoint's model as peft itself merges it: what an export is held against."""

from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor
from sa2va_ray.models.trained_weights import apply_trained, build_base, open_checkpoint


def merged_model(uri: str) -> tuple[Sa2VAModel, Sa2VAProcessor]:
    """In float32, on the CPU."""
    with open_checkpoint(uri) as checkpoint:
        model, processor = build_base(checkpoint)
        peft_model = apply_trained(model, processor, checkpoint)
    return peft_model.merge_and_unload(), processor
