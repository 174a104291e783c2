"""The quick GELU is torch's."""

import torch
import torch.nn.functional as F

from benchmarks.predict import build
from sa2va_ray.predict.quick_gelu import QuickGelu, use_quick_gelu


def test_as_torch_to_float32s_own_precision():
    x = torch.linspace(-12, 12, 400_001)
    expected = F.gelu(x.double())
    error = (QuickGelu()(x).double() - expected).abs()
    assert (error <= 1.5e-7 * x.abs() + 1e-7).all()


def test_bfloat16_is_rounded_once():
    x = torch.linspace(-6, 6, 40_001).bfloat16()
    expected, found = F.gelu(x.double()).bfloat16(), QuickGelu()(x)
    assert found.dtype == torch.bfloat16
    differ = (found != expected) & (expected.abs() > 1e-3)
    assert differ.float().mean() < 0.002  # where the exact value is next to the middle of two
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=1e-6)


def test_each_gelu_of_the_model_is_replaced():
    model, _ = build("tiny", "cpu")
    use_quick_gelu(model)
    quick = [name for name, module in model.named_modules() if isinstance(module, QuickGelu)]
    blocks = model.grounding_encoder.sam2_model.image_encoder.trunk.blocks
    assert sum("image_encoder.trunk" in name for name in quick) == len(blocks)
    assert sum("vision_model" in name for name in quick) == len(model.vision_model.encoder.layer)
    assert not [name for name, module in model.named_modules() if isinstance(module, torch.nn.GELU)]
