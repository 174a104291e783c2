"""A draft changes the time that an answer takes, and nothing else."""

from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image

from sa2va_ray.models.build import build_model
from sa2va_ray.models.sa2va.decoding_sa2va import Sampling, decode_answers
from sa2va_ray.models.sa2va.generation_sa2va import TooManyMasksError, segment
from sa2va_ray.models.sa2va.preparation_sa2va import Request

MAX_NEW_TOKENS = 12


@pytest.fixture(scope="module", params=range(3))
def random_model(request, demo_architecture):
    """Random weights with wide embeddings, so that greedy decoding wanders over many tokens and says [SEG] at times."""
    model, processor = build_model(demo_architecture.model_copy(update={"init_seed": request.param}))
    torch.manual_seed(request.param)
    with torch.no_grad():
        model.language_model.lm_head.weight.normal_()
        model.language_model.get_input_embeddings().weight.normal_()
        model.language_model.lm_head.weight[processor.seg_token_id] *= 2
    return model.eval(), processor


def decode(model, processor, prompts, drafts, forced=None, max_new_tokens=MAX_NEW_TOKENS):
    with torch.inference_mode():
        return decode_answers(
            model.language_model,
            prompts,
            drafts,
            forced or [False] * len(prompts),
            processor.seg_token_id,
            processor.end_token_id,
            max_new_tokens,
        )


def prompts_of(model, count: int) -> list[torch.Tensor]:
    embedding = model.language_model.get_input_embeddings()
    lengths = [5 + 3 * i for i in range(count)]
    return [
        embedding(torch.arange(7 * i, 7 * i + length) % embedding.num_embeddings).detach()
        for i, length in enumerate(lengths)
    ]


def plain(model, processor, prompt):
    return decode(model, processor, [prompt], [[]])[0]


def test_any_draft_gives_what_plain_decoding_gives(random_model):
    """Drafts that are right, wrong at each position, too long, and nonsense, mixed in one batch."""
    model, processor = random_model
    random = np.random.default_rng(0)
    for prompt in prompts_of(model, 3):
        expected = plain(model, processor, prompt)
        said = [token for token in expected.ids if token != processor.end_token_id]
        drafts = [said[:cut] + random.integers(0, 300, tail).tolist() for cut in range(len(said)) for tail in (0, 2)]
        drafts.append(random.integers(0, 300, 9).tolist())
        for answer in decode(model, processor, [prompt] * len(drafts), drafts):
            assert answer.ids == expected.ids
            assert len(answer.seg_states) == len(expected.seg_states)
            for ours, theirs in zip(answer.seg_states, expected.seg_states, strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_rows_of_a_batch_do_not_see_one_another(random_model):
    model, processor = random_model
    prompts = prompts_of(model, 4)
    together = decode(model, processor, prompts, [[], [3], [4, 5, 6], []])
    assert [answer.ids for answer in together] == [plain(model, processor, prompt).ids for prompt in prompts]


def test_they_do_say_seg(random_model):
    """Else the tests above would prove nothing about [SEG] states."""
    model, processor = random_model
    assert any(plain(model, processor, prompt).seg_states for prompt in prompts_of(model, 8))


def test_a_seg_at_the_very_end_has_no_state(random_model):
    model, processor = random_model
    seg, prompt = processor.seg_token_id, prompts_of(model, 1)[0]
    answer = decode(model, processor, [prompt], [[seg, seg]], forced=[True])[0]
    assert len(answer.seg_states) == 2
    cut = decode(model, processor, [prompt], [answer.ids[:1]], max_new_tokens=1)[0]
    assert cut.ids == plain(model, processor, prompt).ids[:1]
    assert cut.seg_states == []


def test_masks_are_those_of_plain_decoding(random_model):
    model, processor = random_model
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (60, 40, 3), np.uint8))
    request = Request(image, "Please segment it.")
    drafted, undrafted = (
        segment(model, processor, [request], draft=d, max_new_tokens=8)[0] for d in ("Sure, [SEG].", "")
    )
    assert drafted.text == undrafted.text
    assert torch.equal(drafted.mask_logits > 0, undrafted.mask_logits > 0)


def test_masks_of_a_batch_are_those_of_single_calls(random_model):
    model, processor = random_model
    random = np.random.default_rng(4)
    sizes, answers = [(60, 40), (33, 90), (128, 128)], ["[SEG]", "Sure, [SEG] and [SEG].", "No."]
    images = [Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)) for size in sizes]
    requests = [Request(image, "Please segment it.", answer) for image, answer in zip(images, answers, strict=True)]
    together = segment(model, processor, requests)
    assert [len(result.mask_logits) for result in together] == [1, 2, 0]
    for request, from_batch in zip(requests, together, strict=True):
        assert torch.equal(segment(model, processor, [request])[0].mask_logits > 0, from_batch.mask_logits > 0)


def test_nearly_cold_sampling_is_greedy_and_hot_sampling_is_not(random_model):
    model, processor = random_model
    request = Request(None, "Which?")
    greedy = segment(model, processor, [request], max_new_tokens=8)[0].text
    assert segment(model, processor, [request], sampling=Sampling(1e-4), max_new_tokens=8)[0].text == greedy
    assert segment(model, processor, [request], sampling=Sampling(5.0, top_p=1e-9), max_new_tokens=8)[0].text == greedy
    torch.manual_seed(0)
    hot = {segment(model, processor, [request], sampling=Sampling(50.0), max_new_tokens=8)[0].text for _ in range(5)}
    assert len(hot) > 1


def test_talk_without_an_image_and_with_history(random_model):
    model, processor = random_model
    assert segment(model, processor, [Request(None, "Hello?")], max_new_tokens=4)[0].mask_logits.shape == (0, 0, 0)
    image = Image.new("RGB", (50, 30))
    turns = [("<image>\nPlease segment it.", "Sure, [SEG].")]
    past = "<|im_start|>user\n<image>\nPlease segment it.<|im_end|>\n<|im_start|>assistant\nSure, [SEG].<|im_end|>\n"
    by_turns, by_text = segment(
        model,
        processor,
        [Request(image, "And this?", "[SEG]", history=turns), Request(image, "And this?", "[SEG]", past_text=past)],
    )
    torch.testing.assert_close(by_turns.mask_logits, by_text.mask_logits)
    assert by_turns.mask_logits.shape == (1, 30, 50)


def test_regions_are_told_with_their_own_tokens(random_model):
    model, processor = random_model
    regions = np.zeros((2, 40, 40), bool)
    regions[0, :20], regions[1, :, 30:] = True, True
    masks = processor.region_masks(regions)
    side = int(processor.config.tokens_per_tile**0.5)
    assert masks.sum(dim=1).tolist() == [side * side // 2, side * (side // 4)]
    text = processor.decode(processor.prompt_ids("<image>Which?", 1, masks.sum(dim=1).tolist()))
    assert "There are 2 part regions in the picture: region1<vp>" in text
    assert "</vp>.\nWhich?" in text
    image = Image.new("RGB", (40, 40))
    with_regions = Request(image, "<image>Which?", "[SEG]", regions=regions)
    assert segment(model, processor, [with_regions])[0].mask_logits.shape == (1, 40, 40)


@pytest.mark.parametrize(
    "before", [{"history": [("<image>What is it?", "A vessel.")]}, {"past_text": "<|im_start|>user\n<image>"}], ids=str
)
def test_regions_of_a_later_question_are_refused_by_their_number(random_model, before):
    model, processor = random_model
    regions = np.ones((2, 40, 40), bool)
    image = Image.new("RGB", (40, 40))
    with pytest.raises(ValueError, match="2 regions"):
        segment(model, processor, [Request(image, "And this?", "[SEG]", regions=regions, **before)])


@pytest.mark.parametrize("order", list(permutations(("image", "msgs", "tokenizer"))))
def test_arguments_of_chat_in_another_order_are_named(parity, order):
    given = {
        "image": parity.image,
        "msgs": [{"role": "user", "content": parity.prompt}],
        "tokenizer": parity.loaded.processor.tokenizer,
    }
    arguments = [given[name] for name in order]
    if order == ("image", "msgs", "tokenizer"):
        assert parity.loaded.model.chat(*arguments)
        return
    with pytest.raises(TypeError, match=r"(msgs|tokenizer) must be .* The order is chat\(image, msgs, tokenizer\)"):
        parity.loaded.model.chat(*arguments)


@pytest.mark.parametrize(
    ("msgs", "message"),
    [
        ("Segment.", "msgs must be a list .*, not str"),
        (["Segment."], "number 0, from 0, is of type str"),
        ([{"role": "user"}], "number 0, from 0, lacks"),
        ([{"role": "user", "content": [{"type": "text", "text": "Segment."}]}], "or it is no text"),
    ],
)
def test_messages_of_another_kind_are_named(parity, msgs, message):
    with pytest.raises(TypeError, match=message):
        parity.loaded.model.chat(parity.image, msgs, parity.loaded.processor.tokenizer)


def test_arguments_of_predict_forward_in_another_order_are_named(parity):
    model, tokenizer = parity.loaded.model, parity.loaded.processor.tokenizer
    with pytest.raises(TypeError, match="text must be a text, not Image"):
        model.predict_forward("Segment.", parity.image, tokenizer)
    with pytest.raises(TypeError, match="tokenizer must be the model's own, not NoneType"):
        model.predict_forward(parity.image, "Segment.")


def test_an_answer_of_more_masks_than_allowed_is_refused_before_they_are_made(parity):
    model, processor, image = parity.loaded.model, parity.loaded.processor, parity.image

    def num_masks(most: int | None) -> int:
        return len(segment(model, processor, [Request(image, "Which?", 5 * "[SEG]", max_masks=most)])[0].mask_logits)

    assert num_masks(5) == num_masks(None)
    with pytest.raises(TooManyMasksError, match="has 5 masks, where 4 are allowed"):
        num_masks(4)


@pytest.mark.parametrize("max_new_tokens", [0, -3, 1.5, True])
def test_the_length_of_an_answer_is_a_whole_number(random_model, max_new_tokens):
    with pytest.raises(ValueError, match="max_new_tokens"):
        segment(*random_model, [Request(None, "Hello?")], max_new_tokens=max_new_tokens)


@pytest.mark.parametrize("values", [(float("nan"), 1.0), (-1.0, 1.0), (1e-45, 1.0), (1.0, 0.0), (1.0, 5.0)])
def test_tokens_are_drawn_with_sensible_values_only(values):
    with pytest.raises(ValueError, match=r"temperature is|top_p is"):
        Sampling(*values)


def test_the_images_of_two_requests_do_not_mix(random_model):
    """One conversation has a place too many, the other one too few: together they would come out even."""
    image = Image.new("RGB", (40, 40))
    said = [Request(image, "a", past_text="<image> <image>"), Request(image, "a", past_text="hello")]
    for requests in (said, said[:1], said[1:]):
        with pytest.raises(ValueError, match="room for"):
            segment(*random_model, requests, max_new_tokens=2)


@pytest.mark.parametrize("shape", [(0, 4, 4), (4, 4)])
def test_regions_have_a_shape(random_model, shape):
    with pytest.raises(ValueError, match="Regions have the shape"):
        segment(*random_model, [Request(Image.new("RGB", (4, 4)), "a", regions=np.zeros(shape, bool))])
