import torch

from sa2va_ray.models.build import build_model


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
