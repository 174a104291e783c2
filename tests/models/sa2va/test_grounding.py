import torch

from sa2va_ray.data.batch import collate
from sa2va_ray.models.build import build_model
from sa2va_ray.models.sa2va.processing_sa2va import normalize_tiles
from tests.train.ranks import tiny_row


def test_of_random_weights_the_first_mask_is_taken_of_every_image(demo_architecture):
    """The IoUs that choose among three masks never train; drawn ones chose another mask from image to image."""
    model, _ = build_model(demo_architecture)
    grounding = model.grounding_encoder
    images = torch.randn(2, 3, model.config.grounding_size, model.config.grounding_size)
    prompts = 10 * torch.randn(2, grounding.embedding_size)
    decoder, chosen = grounding.sam2_model.sam_mask_decoder, []
    handle = decoder.register_forward_hook(lambda module, arguments, output: chosen.append(output[:2]))
    with torch.no_grad():
        masks, ious = grounding(images, prompts, torch.arange(2))
    handle.remove()
    (of_three, all_ious) = chosen[0]
    assert masks.equal(of_three[:, 0].float())
    assert ious.equal(all_ious[:, 0])
    assert (all_ious[:, 1:] < ious.unsqueeze(1)).all()


@torch.no_grad()
def test_training_in_bfloat16_rounds_the_image_once(demo_architecture):
    """As upstream does: normalised in float32 and with exact constants, and rounded behind that."""
    model, processor = build_model(demo_architecture, torch.bfloat16)
    batch, seen = collate([tiny_row(processor, 1)]), []
    model.grounding_encoder.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        pixel_values=normalize_tiles(batch.pixel_values),
        grounding_pixel_values=batch.grounding_pixel_values,
    )
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    exact = (batch.grounding_pixel_values / 255 - mean) / std
    torch.testing.assert_close(seen[0], exact.to(torch.bfloat16), atol=0, rtol=0)
