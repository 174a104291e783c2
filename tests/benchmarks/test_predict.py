"""The rows of the predictor's benchmark."""

import numpy as np
from PIL import Image

from benchmarks.predict import build, one_by_one, teach_the_draft


def test_upstreams_way_asks_of_the_images_that_it_is_given():
    model, processor = build("tiny", "cpu")
    teach_the_draft(model, processor)
    seen = []
    hook = model.grounding_encoder.sam2_model.image_encoder.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].float().mean().item())
    )
    images = [Image.fromarray(np.full((32, 32, 3), grey, np.uint8)) for grey in (0, 255)]
    answers = [one_by_one(model, processor, [image]) for image in images]
    hook.remove()
    assert len(answers) == 2
    assert seen[0] < seen[1]
