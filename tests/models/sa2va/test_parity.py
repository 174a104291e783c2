"""The model computes what upstream's computes: float32, CPU, tiny sizes, random weights.

Tolerances are those that the fixtures' README suggests. The largest error seen is 9e-6, of mask logits up to 15 (four
units in the last place, after some forty layers). Masks are compared as booleans, exactly.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sa2va_ray.models.loading.key_layouts import adapter_target, placements
from sa2va_ray.models.sa2va.decoding_sa2va import decode_answers
from sa2va_ray.models.sa2va.generation_sa2va import segment
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAOutput
from sa2va_ray.models.sa2va.preparation_sa2va import Request
from sa2va_ray.train import losses

ATOL = 1e-4
_COPIES = 5  # upstream repeats the objects of an image to this number
_EPS = 1e-4 + 1.19e-7  # and adds this to the number that it divides by


def assert_close(actual: Tensor, expected: Tensor, atol: float = ATOL, rtol: float = 0.0) -> None:
    torch.testing.assert_close(actual.detach().reshape(expected.shape), expected, atol=atol, rtol=rtol)


@contextmanager
def recorded(module: nn.Module) -> Iterator[dict]:
    """What goes into a module (keyword arguments) and what comes out of it."""
    record: dict = {}

    def keep(_, args, kwargs, output) -> None:
        record.update(args=args, kwargs=kwargs, output=output)

    handle = module.register_forward_hook(keep, with_kwargs=True)
    try:
        yield record
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def image_tokens(parity) -> Tensor:
    with torch.inference_mode():
        return parity.loaded.model.encode_tiles(parity.tensor("tiles_pixel_values"))


@pytest.fixture(scope="module")
def prompt_embeds(parity, image_tokens) -> Tensor:
    with torch.inference_mode():
        return parity.loaded.model.embed(parity.tensor("prompt_input_ids")[None], image_tokens.flatten(0, 1))


@pytest.fixture(scope="module")
def decoded(parity) -> dict:
    """SAM 2 in the whole way from image and said answer to masks."""
    model, processor = parity.loaded.model, parity.loaded.processor
    decoder = model.grounding_encoder.sam2_model.sam_mask_decoder
    with recorded(decoder) as of_decoder, recorded(model.text_hidden_fcs) as of_head:
        result = segment(model, processor, [Request(parity.image, parity.prompt, parity.answer)])[0]
    return {"decoder": of_decoder, "head": of_head, "result": result}


def test_vision_encoder(parity):
    with torch.inference_mode():
        hidden = parity.loaded.model.vision_model(parity.tensor("tiles_pixel_values")).last_hidden_state
    assert_close(hidden, parity.tensor("vit_last_hidden_state"))


def test_projector_and_prompt_embeddings(parity, image_tokens, prompt_embeds):
    assert_close(image_tokens, parity.tensor("vit_embeds"))
    assert_close(prompt_embeds, parity.tensor("inputs_embeds"))


def test_teacher_forced_language_model(parity, prompt_embeds):
    model = parity.loaded.model
    answer = model.language_model.get_input_embeddings()(parity.tensor("answer_ids")[:-1])
    with torch.inference_mode():
        embeds = torch.cat([prompt_embeds, answer[None]], dim=1)
        hidden = model.language_model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        logits = model.language_model.lm_head(hidden)
    assert_close(hidden, parity.tensor("teacher_forced_last_hidden"))
    assert_close(hidden, parity.tensor("last_hidden_states"))
    assert_close(logits, parity.tensor("teacher_forced_logits"))
    assert_close(logits[0, -len(answer) - 1 :], parity.tensor("gen_step_logits"))


def test_greedy_ids_whatever_the_draft(parity, prompt_embeds):
    model, processor = parity.loaded.model, parity.loaded.processor
    expected = parity.array("greedy_12_ids").tolist()
    for draft in ([], expected[:5], [*expected[:4], 3, 3, 3], processor.answer_ids(parity.answer)):
        with torch.inference_mode():
            said = decode_answers(
                model.language_model,
                [prompt_embeds[0]],
                drafts=[draft],
                forced=[False],
                seg_token_id=processor.seg_token_id,
                end_token_id=processor.end_token_id,
                max_new_tokens=len(expected),
            )[0]
        assert said.ids == expected


def test_states_and_embeddings_at_seg_tokens(parity, decoded):
    assert_close(decoded["head"]["args"][0], parity.tensor("seg_hidden_states"))
    assert_close(decoded["head"]["output"], parity.tensor("seg_embeds"))


def test_sam2_features(parity, decoded):
    sam2 = parity.loaded.model.grounding_encoder.sam2_model
    inputs = decoded["decoder"]["kwargs"]
    for level in (0, 1):  # of every second row and column; the masks are compared at every pixel
        actual, expected = inputs["high_res_features"][level][:1], parity.tensor(f"sam_fpn{level}")
        assert_close(actual[..., ::2, ::2], expected[..., ::2, ::2])
    assert_close(inputs["image_embeddings"][:1], parity.tensor("sam_backbone_features"))
    no_memory = sam2.no_mem_embed.reshape(1, -1, 1, 1)
    assert_close(inputs["image_embeddings"][:1] - no_memory, parity.tensor("sam_fpn2"))
    assert_close(inputs["image_pe"], parity.tensor("sam_image_pe"))
    assert_close(inputs["dense_prompt_embeddings"][:1, :, :1, :1], parity.tensor("sam_dense_embeddings_1x1"))
    assert_close(sam2.image_encoder.neck.position_encoding(inputs["image_embeddings"][:1]), parity.tensor("sam_pos2"))


def test_mask_decoder(parity, decoded):
    masks, ious, _, object_scores = decoded["decoder"]["output"]
    assert len(masks) == parity.num_segs
    for j in range(parity.num_segs):
        sparse = decoded["decoder"]["kwargs"]["sparse_prompt_embeddings"]
        assert_close(sparse[j], parity.tensor(f"seg{j}_sparse_embeddings"))
        assert_close(masks[j], parity.tensor(f"seg{j}_low_res_multimasks"))
        assert_close(ious[j], parity.tensor(f"seg{j}_ious"))
        assert_close(masks[j, ious[j].argmax()], parity.tensor(f"seg{j}_low_res_mask_best"))
        assert_close(object_scores[j], parity.tensor(f"seg{j}_object_score_logits"))


def test_masks_at_the_images_own_size(parity, decoded):
    result = decoded["result"]
    assert result.text == parity.meta["image"]["prediction"]
    assert len(result.mask_logits) == parity.num_segs
    for j, logits in enumerate(result.mask_logits):
        assert_close(logits, parity.tensor(f"seg{j}_mask_logits_orig"))
        np.testing.assert_array_equal((logits.sigmoid() > 0.5)[None], parity.array(f"seg{j}_mask_binary"))
        assert_close(result.ious[j], parity.tensor(f"seg{j}_ious").max())


def test_predict_forward_is_upstreams_call(parity):
    processor = parity.loaded.processor
    result = parity.loaded.model.predict_forward(image=parity.image, text=parity.prompt, tokenizer=processor.tokenizer)
    begin = processor.decode(parity.array("greedy_12_ids").tolist()).rstrip("\ufffd")  # a character may be cut in two
    assert result["prediction"].startswith(begin)
    # The last token of an answer that was cut off has no state, so no mask, should it be a [SEG].
    assert len(result["prediction_masks"]) in (count := result["prediction"].count("[SEG]"), count - 1)
    assert all(mask.shape == (1, parity.image.height, parity.image.width) for mask in result["prediction_masks"])


# Training. All parameters take gradients here: adapters that are still zero leave the weights as they are.


def run_batch(parity, prefix: str, pictures: list[int]) -> Sa2VAOutput:
    """The stored batch through our forward pass; its pictures are prepared by our processor."""
    model, processor = parity.loaded.model, parity.loaded.processor
    images = [parity.train_image(index) for index in pictures]
    return model(
        input_ids=parity.tensor(f"{prefix}_input_ids"),
        attention_mask=parity.tensor(f"{prefix}_attention_mask"),
        pixel_values=torch.cat([processor.image_tiles(image) for image in images]),
        grounding_pixel_values=torch.stack([processor.grounding_image(image) for image in images]),
    )


def language_loss(parity, prefix: str, output: Sa2VAOutput) -> Tensor:
    """Our sum over supervised tokens, divided by their number."""
    labels = parity.tensor(f"{prefix}_labels")
    logits = output.logits.view(*labels.shape, -1)[:, :-1]
    supervised = labels[:, 1:] != -100
    return losses.language_loss(logits[supervised], labels[:, 1:][supervised]) / supervised.sum()


def copies(counts: list[int]) -> list[int]:
    """Which object each of upstream's five copies per image is, over all images."""
    starts = np.cumsum([0, *counts])
    return [int(start) + j % count for start, count in zip(starts, counts, strict=False) for j in range(_COPIES)]


def mask_losses(monkeypatch, parity, prefix: str, masks: Tensor, truths: Tensor) -> dict[str, Tensor]:
    """Our sums at the stored points, with upstream's weights and divisors (docs/en/model_spec.md section 5.2)."""
    points = parity.tensor(f"{prefix}_point_coords")
    monkeypatch.setattr(losses, "sample_points", lambda *_: points)
    num_masks, num_points = points.shape[:2]
    sums = losses.mask_losses(masks, list(truths), num_points)
    return {
        "loss_mask": 2.0 * sums["mask"] * num_points / (num_masks * num_points + _EPS),
        "loss_dice": 0.5 * sums["dice"] / (num_masks + _EPS),
    }


def train_truths(parity, samples: range) -> tuple[list[int], Tensor]:
    """Objects per image, and upstream's true masks: shrunk to the size of the logits, five copies per image."""
    stored = [parity.tensor(f"train_gt_masks_{index}") for index in samples]
    size = parity.array("train_pred_masks").shape[-2:]
    shrunk = [F.interpolate(masks[:, None].float(), size=size, mode="nearest")[:, 0] for masks in stored]
    counts = [len(masks) for masks in stored]
    return counts, torch.cat(shrunk)[copies(counts)]


@pytest.fixture(scope="module")
def trained(parity) -> dict:
    """The stored training batch: outputs, losses and, after one backward pass, the gradients."""
    model = parity.loaded.model
    num_images = len(parity.array("train_input_ids"))
    with recorded(model.text_hidden_fcs) as of_head:
        output = run_batch(parity, "train", list(range(num_images)))
    counts, truths = train_truths(parity, range(num_images))
    masks = output.mask_logits[copies(counts)]
    with pytest.MonkeyPatch.context() as monkeypatch:
        parts = mask_losses(monkeypatch, parity, "train", masks, truths)
    parts["llm_loss"] = language_loss(parity, "train", output)
    sum(parts.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return {
        "output": output,
        "head": of_head,
        "counts": counts,
        "masks": masks,
        "truths": truths,
        "losses": parts,
        "gradients": gradients,
    }


@pytest.fixture(scope="module")
def without_masks(parity) -> dict:
    """The stored batch that has no [SEG], with its gradients."""
    model = parity.loaded.model
    output = run_batch(parity, "nomask", list(range(len(parity.array("nomask_input_ids")))))
    loss = language_loss(parity, "nomask", output)
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return {"output": output, "loss": loss, "gradients": gradients}


def test_training_forward(parity, trained):
    of_copy = copies(trained["counts"])
    valid = parity.tensor("train_attention_mask").flatten()  # nothing is said of what padding gives
    logits = parity.tensor("train_lm_logits").flatten(0, 1)
    assert_close(trained["output"].logits[valid], logits[valid])
    assert_close(trained["head"]["output"][of_copy], parity.tensor("train_language_embeddings"))
    assert_close(trained["masks"], parity.tensor("train_pred_masks"))
    torch.testing.assert_close(trained["truths"], parity.tensor("train_gt_masks_resized").float(), rtol=0, atol=0)


def test_sampled_points_are_upstreams_for_the_same_draws(parity, monkeypatch):
    draws = iter([parity.tensor("train_rand_oversample"), parity.tensor("train_rand_random")])
    monkeypatch.setattr(torch, "rand", lambda *_, **__: next(draws))
    expected = parity.tensor("train_point_coords")
    masks = parity.tensor("train_pred_masks")
    points = losses.sample_points(masks, expected.shape[1])
    torch.testing.assert_close(points, expected, rtol=0, atol=0)
    assert_close(losses.sample_at(masks, points), parity.tensor("train_sampled_pred"))
    truths = parity.tensor("train_gt_masks_resized").float()
    assert_close(losses.sample_at(truths, points), parity.tensor("train_sampled_gt"))


def test_training_losses(parity, trained):
    for name, expected in parity.train_meta["train_"]["losses"].items():
        assert trained["losses"][name].item() == pytest.approx(expected, rel=1e-5), name


def test_dense_losses(parity, trained):
    masks, truths = trained["masks"].flatten(1).detach(), trained["truths"].flatten(1)
    dense = {
        "loss_mask": 2.0 * F.binary_cross_entropy_with_logits(masks, truths),
        "loss_dice": 0.5 * losses.soft_dice_loss(masks.sigmoid(), truths).mean(),
        "llm_loss": trained["losses"]["llm_loss"],
    }
    for name, expected in parity.train_meta["train_dense"].items():
        assert dense[name].item() == pytest.approx(expected, rel=1e-5), name


def test_gradients(parity, trained):
    """The stored ones by value; of every other trained weight the norm. An adapter's gradient has its own test."""
    stored = [name for name in parity.names("train_grad/") if ".lora_" not in name]
    assert len(stored) >= 7
    for name in stored:
        own = placements(name.removeprefix("train_grad/"))[0].name
        assert_close(trained["gradients"][own], parity.tensor(name), atol=1e-5, rtol=1e-4)
    compared = 0
    for name, norm in parity.train_meta["train_"]["grad_norms"].items():
        own = placements(name)[0].name
        if own in trained["gradients"]:
            assert trained["gradients"][own].norm().item() == pytest.approx(norm or 0.0, rel=1e-4, abs=1e-5), own
            compared += 1
    assert compared >= 100


def test_gradients_of_adapters(parity, trained, without_masks):
    """dB = alpha / r * dW A^T in two batches, with the same A, which is not stored: there has to be one that solves
    both, twice as many equations as unknowns."""
    name = "mllm.model.language_model.base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight"
    weight = adapter_target(name)[0]
    of_weight = torch.cat([trained["gradients"][weight], without_masks["gradients"][weight]]).double()
    of_b = torch.cat([parity.tensor(f"train_grad/{name}"), parity.tensor(f"nomask_grad/{name}")]).double()
    scaled_a = torch.linalg.lstsq(of_weight, of_b).solution
    assert ((of_weight @ scaled_a - of_b).norm() / of_b.norm()).item() < 1e-4


def test_a_batch_without_masks(parity, without_masks):
    output = without_masks["output"]
    valid = parity.tensor("nomask_attention_mask").flatten()
    assert_close(output.logits[valid], parity.tensor("nomask_lm_logits").flatten(0, 1)[valid])
    expected = parity.train_meta["nomask_"]["losses"]
    assert without_masks["loss"].item() == pytest.approx(expected["llm_loss"], rel=1e-5)
    assert expected["loss_mask"] == expected["loss_dice"] == output.num_objects == 0
    # Something goes through SAM 2 all the same, so that no rank stays away from the others' collectives.
    assert output.mask_logits.requires_grad


def test_a_batch_with_and_without_masks(parity, monkeypatch):
    rows = [_spoken(parity, "mixed", row) for row in range(len(parity.array("mixed_input_ids")))]
    known = [_spoken(parity, "nomask", 0), _spoken(parity, "nomask", 1)], _spoken(parity, "train", 0)
    pictures = [0 if row == known[1] else known[0].index(row) for row in rows]
    with torch.no_grad(), recorded(parity.loaded.model.text_hidden_fcs) as of_head:
        output = run_batch(parity, "mixed", pictures)
        counts, truths = train_truths(parity, range(1))
        assert output.num_objects == sum(counts)
        assert_close(of_head["output"][copies(counts)], parity.tensor("mixed_language_embeddings"))
        parts = mask_losses(monkeypatch, parity, "mixed", output.mask_logits[copies(counts)], truths)
        parts["llm_loss"] = language_loss(parity, "mixed", output)
    for name, expected in parity.train_meta["mixed_"]["losses"].items():
        assert parts[name].item() == pytest.approx(expected, rel=1e-5), name


def _spoken(parity, prefix: str, row: int) -> list[int]:
    """A sample's ids without padding."""
    return parity.tensor(f"{prefix}_input_ids")[row][parity.tensor(f"{prefix}_attention_mask")[row]].tolist()
