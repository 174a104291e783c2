"""From images and prompts to answers with masks: batched, greedy, with a drafted answer.

The usual answer is known beforehand ("Sure, [SEG]."). It is appended to the prompt as a draft, and one forward pass
over prompt and draft shows, token by token, whether greedy decoding would have said the same. Where it would not,
decoding goes on from the first difference. The result is that of plain greedy decoding in both cases.

Shapes: B queries, L tokens, D width of the language model, V vocabulary, N masks of one query, H W pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache

from .grounding_sam2 import normalize_grounding_images, upsample_mask_logits
from .processing_sa2va import Sa2VAProcessor

DEFAULT_DRAFT = "Sure, [SEG]."
_NO_TILES = torch.zeros(0, 3, 1, 1)

AnyRank = Callable[[bool], bool]
"""Whether a thing is so in any of the processes that share a model, all of which ask at the same places. `bool` is
that of a process on its own."""


class TooManyMasksError(ValueError):
    """An answer has more masks than were asked for."""


@dataclass(frozen=True)
class Request:
    """What is asked of the model.

    Attributes:
        image: RGB, any size; None for a talk without an image.
        prompt: may hold one `<image>` marker; without one the image goes first, on a line of its own.
        answer: a reply to be taken as said, without its end token; None lets the model speak.
        history: earlier (question, answer) turns about the same image.
        past_text: the same as upstream gives it, in the template's own words; not together with `history`.
        regions: (R, H, W) bool, regions of the image that the prompt is about (visual prompts); of a first
            question only, so not together with `history` or `past_text`.
        max_masks: that the answer may have, since each takes memory for the whole image; None for any number.
    """

    image: Image.Image | None
    prompt: str
    answer: str | None = None
    history: Sequence[tuple[str, str]] = ()
    past_text: str = ""
    regions: np.ndarray | None = None
    max_masks: int | None = None


@dataclass(frozen=True)
class Sampling:
    """Draws tokens instead of taking the likeliest: `temperature` > 0, and `top_p` in (0, 1], the share of the
    probability that the likeliest tokens must have together to be drawn from."""

    temperature: float
    top_p: float = 1.0


@dataclass
class DecodedAnswer:
    """Token ids that the language model said, and the hidden states (D,) at those of its [SEG] tokens that have one.

    A [SEG] that is the very last token of an answer cut off by its length has no state (docs/model_spec.md section 4).
    """

    ids: list[int]
    seg_states: list[Tensor]


@dataclass
class Segmentation:
    """One request's result: `text` with special tokens, `mask_logits` (N, H, W) float32 at the image's own size, and
    `ious` (N,), SAM 2's own estimates."""

    text: str
    mask_logits: Tensor
    ious: Tensor


@torch.no_grad()  # not inference mode: between training steps, it would leave what autograd refuses
def segment(
    model,
    processor: Sa2VAProcessor,
    requests: Sequence[Request],
    draft: str = DEFAULT_DRAFT,
    sampling: Sampling | None = None,
    max_new_tokens: int = 2048,
    any_rank: AnyRank = bool,
) -> list[Segmentation]:
    """Answers B requests about images of any size in one batch. An image that several requests hold, the same object,
    is encoded once.

    Where processes share the weights (ZeRO-3), each part of the model runs in all of them or in none. With `any_rank`
    they make the same calls, whatever each has to say: one that is done goes on in step, for nothing. All must bring
    the same B, and an image with each request.

    Args:
        model: `Sa2VAModel` in evaluation mode.
        draft: the answer that is expected; it changes the time that the answer takes, and nothing else.
        sampling: None decodes greedily.

    Raises:
        TooManyMasksError: an answer has more masks than its request allows.
    """
    images, places = _distinct([request.image for request in requests])
    tiles = [processor.image_tiles(image) if image else _NO_TILES for image in images]
    regions = [
        torch.zeros(0, processor.config.tokens_per_tile, dtype=torch.bool)
        if request.regions is None
        else processor.region_masks(request.regions)
        for request in requests
    ]
    num_tiles = [len(tiles[place]) for place in places]
    prompt_ids = [_prompt_ids(processor, *each) for each in zip(requests, num_tiles, regions, strict=True)]
    image_tokens = _image_tokens(model, tiles, places, regions)
    # One row for all prompts: each image's tokens fall into its own prompt's places, in order.
    all_ids = torch.tensor([[id_ for ids in prompt_ids for id_ in ids]], device=model.device)
    prompt_embeds = model.embed(all_ids, image_tokens)[0].split([len(ids) for ids in prompt_ids])
    guess = [] if sampling else processor.answer_ids(draft)
    replies = decode_answers(
        model.language_model,
        prompt_embeds,
        drafts=[guess if each.answer is None else processor.answer_ids(each.answer) for each in requests],
        forced=[each.answer is not None for each in requests],
        seg_token_id=processor.seg_token_id,
        end_token_id=processor.end_token_id,
        sampling=sampling,
        max_new_tokens=max_new_tokens,
        any_rank=any_rank,
    )
    for request, reply in zip(requests, replies, strict=True):
        _check_num_masks(len(reply.seg_states), request.max_masks)
    masks = _decode_masks(model, processor, images, places, [reply.seg_states for reply in replies], any_rank)
    return [Segmentation(processor.decode(reply.ids), *mask) for reply, mask in zip(replies, masks, strict=True)]


def _check_num_masks(num_masks: int, most: int | None) -> None:
    if most is not None and num_masks > most:
        raise TooManyMasksError(
            f"The model's answer has {num_masks} masks, where {most} are allowed for an image of this size. A model "
            "says so many where it was not trained on such a question."
        )


def _distinct(images: Sequence[Image.Image | None]) -> tuple[list[Image.Image | None], list[int]]:
    """The images without repetition, and where in these each one is."""
    found = {id(image): image for image in images}
    order = {key: place for place, key in enumerate(found)}
    return list(found.values()), [order[id(image)] for image in images]


def _prompt_ids(processor: Sa2VAProcessor, request: Request, num_tiles: int, regions: Tensor) -> list[int]:
    if len(regions) and (request.past_text or request.history or request.image is None):
        raise ValueError(
            f"The question has {len(regions)} regions, which stand beside the image in the first question of a talk. "
            "Ask about them first, or leave out the regions or what was said before."
        )
    if request.past_text:
        return processor.past_text_ids(request.past_text, num_tiles) + processor.follow_up_ids(request.prompt)
    if request.history:
        return processor.training_ids(request.history, num_tiles)[0] + processor.follow_up_ids(request.prompt)
    if request.image is None:
        return processor.follow_up_ids(request.prompt)
    return processor.prompt_ids(request.prompt, num_tiles, regions.sum(dim=1).tolist())


def _image_tokens(model, tiles: Sequence[Tensor], places: Sequence[int], regions: Sequence[Tensor]) -> Tensor:
    """(M, D): for each request the tokens of its image's tiles, then those of each region, taken from the last tile."""
    if not any(len(each) for each in tiles):
        return torch.zeros(0, model.config.hidden_size, device=model.device)
    encoded = model.encode_tiles(torch.cat(list(tiles)).to(model.device)).split([len(each) for each in tiles])
    tokens = []
    for place, of_regions in zip(places, regions, strict=True):
        of_image = encoded[place]
        tokens += [
            of_image.flatten(0, 1),
            *[of_image[-1, region.to(of_image.device)] for region in of_regions],
        ]
    return torch.cat(tokens)


def _decode_masks(
    model,
    processor: Sa2VAProcessor,
    images: Sequence[Image.Image | None],
    places: Sequence[int],
    seg_states: Sequence[list[Tensor]],
    any_rank: AnyRank,
) -> list[tuple[Tensor, Tensor]]:
    """Mask logits (N, H, W) and IoU (N,) of each request, whose image is that at its place; SAM 2 sees only the images
    that have a [SEG]."""
    masks = [(torch.zeros(0, *_size(images[place])), torch.zeros(0)) for place in places]
    shown = [number for number, place in enumerate(places) if images[place] and seg_states[number]]
    if not any_rank(bool(shown)):
        return masks
    if not shown:
        nothing = torch.zeros(model.config.hidden_size, dtype=model.dtype, device=model.device)
        _ground(model, processor, [Image.new("RGB", (1, 1))], [[nothing]])  # in step with the others
        return masks
    shown_images = [images[places[number]] for number in shown]
    for number, image, (logits, ious) in zip(
        shown, shown_images, _ground(model, processor, shown_images, [seg_states[n] for n in shown]), strict=True
    ):
        full = upsample_mask_logits(logits, processor.config.grounding_size, *_size(image))
        masks[number] = (full.cpu(), ious.cpu())
    return masks


def _ground(
    model, processor: Sa2VAProcessor, images: Sequence[Image.Image | None], seg_states: Sequence[list[Tensor]]
) -> list[tuple[Tensor, Tensor]]:
    """SAM 2's mask logits (N, h, h) and IoU (N,) of each request, in one call; every request has an image and an
    object."""
    distinct, places = _distinct(images)
    counts = [len(states) for states in seg_states]
    pixels = torch.stack([processor.grounding_image(image) for image in distinct if image]).to(model.device)
    logits, ious = model.grounding_encoder(
        normalize_grounding_images(pixels, model.dtype, constants_dtype=torch.bfloat16),
        model.text_hidden_fcs(torch.stack([state for states in seg_states for state in states])),
        torch.repeat_interleave(torch.tensor(places), torch.tensor(counts)).to(model.device),
    )
    return list(zip(logits.split(counts), ious.split(counts), strict=True))


def _size(image: Image.Image | None) -> tuple[int, int]:
    """(H, W)"""
    return (image.height, image.width) if image else (0, 0)


def decode_answers(
    language_model,
    prompt_embeds: Sequence[Tensor],
    drafts: Sequence[list[int]],
    forced: Sequence[bool],
    seg_token_id: int,
    end_token_id: int,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    any_rank: AnyRank = bool,
) -> list[DecodedAnswer]:
    """Answers to B prompts of different lengths, greedy where `sampling` is None.

    Args:
        prompt_embeds: B tensors (L_b, D).
        drafts: what each answer is expected to be, end token not included; `forced` ones are taken as they are. Empty
            ones where tokens are drawn.
        max_new_tokens: an answer is cut off behind this many tokens.
        any_rank: see `segment`. `forced` ones are then forced in all processes.
    """
    embedding = language_model.get_input_embeddings()
    device = prompt_embeds[0].device
    rows = [
        torch.cat([prompt, embedding(torch.tensor(draft, dtype=torch.int64, device=device))])
        for prompt, draft in zip(prompt_embeds, drafts, strict=True)
    ]
    inputs_embeds = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    length = inputs_embeds.shape[1]
    lengths = torch.tensor([len(row) for row in rows], device=device)
    attention_mask = torch.arange(length, device=device) < lengths.unsqueeze(1)
    cache = DynamicCache(config=language_model.config)
    hidden = language_model.model(
        inputs_embeds=inputs_embeds,
        attention_mask=attention_mask,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state

    answers, unfinished = [], []
    for row, (prompt, draft) in enumerate(zip(prompt_embeds, drafts, strict=True)):
        spoken = hidden[row, len(prompt) - 1 : len(rows[row])]  # the last prompt token, then the draft's
        if forced[row]:
            said = [*draft, end_token_id]
        else:
            said = _accepted(draft, _choose(language_model.lm_head(spoken), sampling), end_token_id)[:max_new_tokens]
        # All tokens but the last were put in, so they have a state; the last one was only predicted.
        states = [spoken[1 + i] for i, token in enumerate(said[:-1]) if token == seg_token_id]
        answers.append(DecodedAnswer(said, states))
        if not _has_ended(answers[row], end_token_id, max_new_tokens):
            unfinished.append(row)
            attention_mask[row, len(prompt) + len(said) - 1 :] = False  # the rest of the draft was not said
    if any_rank(bool(unfinished)):
        rows_left = unfinished or [0]  # an answer that has ended, in step with the other processes
        index = torch.tensor(rows_left, device=device)
        cache.batch_select_indices(index)
        _continue(
            language_model,
            cache,
            attention_mask[index],
            [answers[row] for row in rows_left],
            seg_token_id,
            end_token_id,
            max_new_tokens,
            sampling,
            any_rank,
        )
    return answers


def _choose(logits: Tensor, sampling: Sampling | None) -> list[int]:
    """(R, V) -> R token ids."""
    if sampling is None:
        return logits.argmax(dim=-1).tolist()
    probabilities, tokens = (logits.float() / sampling.temperature).softmax(dim=-1).sort(dim=-1, descending=True)
    before = probabilities.cumsum(dim=-1) - probabilities  # of the likelier tokens together
    drawn = torch.multinomial(probabilities.masked_fill(before >= sampling.top_p, 0.0), num_samples=1)
    return tokens.gather(-1, drawn).squeeze(-1).tolist()


def _accepted(draft: list[int], predicted: list[int], end_token_id: int) -> list[int]:
    """What greedy decoding says as far as one pass over the draft shows it: the draft up to the first difference, and
    the token that belongs there instead.

    Args:
        predicted: the greedy token after the prompt, then after each token of the draft (one more than the draft has).
    """
    for position, token in enumerate(predicted):
        if token == end_token_id or position == len(draft) or token != draft[position]:
            return predicted[: position + 1]
    raise AssertionError("predicted is longer than the draft, so the loop returns")


def _continue(
    language_model,
    cache: DynamicCache,
    attention_mask: Tensor,
    answers: list[DecodedAnswer],
    seg_token_id: int,
    end_token_id: int,
    max_new_tokens: int,
    sampling: Sampling | None,
    any_rank: AnyRank,
) -> None:
    """Extends `answers` token by token until each has ended. Their last tokens are not yet in the cache.

    Args:
        attention_mask: (B, L) bool, which slots of the cache belong to the row.
    """
    done = [_has_ended(answer, end_token_id, max_new_tokens) for answer in answers]
    while any_rank(not all(done)):
        last = torch.tensor([[answer.ids[-1]] for answer in answers], device=attention_mask.device)
        position_ids = attention_mask.sum(dim=1, keepdim=True)
        attention_mask = torch.cat([attention_mask, torch.ones_like(last, dtype=torch.bool)], dim=1)
        hidden = language_model.model(
            input_ids=last,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, 0]
        tokens = _choose(language_model.lm_head(hidden), sampling)
        for row, (answer, token) in enumerate(zip(answers, tokens, strict=True)):
            if done[row]:
                continue
            if answer.ids[-1] == seg_token_id:
                answer.seg_states.append(hidden[row])
            answer.ids.append(token)
            done[row] = _has_ended(answer, end_token_id, max_new_tokens)


def _has_ended(answer: DecodedAnswer, end_token_id: int, max_new_tokens: int) -> bool:
    return answer.ids[-1] == end_token_id or len(answer.ids) >= max_new_tokens
