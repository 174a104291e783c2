"""From images and prompts to answers with masks: batched, greedy, with a drafted answer.

The usual answer is known beforehand ("Sure, [SEG]."). It is appended to the prompt as a draft, and one forward pass
over prompt and draft shows, token by token, whether greedy decoding would have said the same. Where it would not,
decoding goes on from the first difference. The result is that of plain greedy decoding in both cases.

Shapes: B queries, L tokens, D width of the language model, V vocabulary, N masks of one query, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache

from .grounding_sam2 import normalize_grounding_images, upsample_mask_logits
from .processing_sa2va import Sa2VAProcessor

DEFAULT_DRAFT = "Sure, [SEG]."


@dataclass
class Answer:
    """Token ids that the language model said, and the hidden states (k, D) at those of its [SEG] tokens that have one.

    A [SEG] that is the very last token of an answer cut off by its length has no state (spec section 4).
    """

    ids: list[int]
    seg_states: list[Tensor]


@dataclass
class Segmentation:
    """One query's result: `text` with special tokens, `mask_logits` (N, H, W) float32 at the image's own size, and
    `ious` (N,), SAM 2's own estimates."""

    text: str
    mask_logits: Tensor
    ious: Tensor


@torch.inference_mode()
def segment(
    model,
    processor: Sa2VAProcessor,
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    answers: Sequence[str | None],
    draft: str = DEFAULT_DRAFT,
    max_new_tokens: int = 256,
) -> list[Segmentation]:
    """Answers B prompts about B RGB images of any size in one batch.

    Args:
        model: `Sa2VAModel` in evaluation mode.
        answers: a reply to be taken as said (without the end token), or None to let the model speak.
    """
    tiles = [processor.image_tiles(image) for image in images]
    prompt_ids = [processor.prompt_ids(prompt, len(t)) for prompt, t in zip(prompts, tiles, strict=True)]
    image_tokens = model.encode_tiles(torch.cat(tiles).to(model.device))
    # One row for all prompts: each image's tokens fall into its own prompt's places, in order.
    all_ids = torch.tensor([[id_ for ids in prompt_ids for id_ in ids]], device=model.device)
    prompt_embeds = model.embed(all_ids, image_tokens)[0].split([len(ids) for ids in prompt_ids])
    replies = greedy_answers(
        model.language_model,
        prompt_embeds,
        drafts=[processor.answer_ids(draft if answer is None else answer) for answer in answers],
        forced=[answer is not None for answer in answers],
        seg_token_id=processor.seg_token_id,
        end_token_id=processor.end_token_id,
        max_new_tokens=max_new_tokens,
    )
    masks = _decode_masks(model, processor, images, [reply.seg_states for reply in replies])
    return [Segmentation(processor.decode(reply.ids), *mask) for reply, mask in zip(replies, masks, strict=True)]


def _decode_masks(
    model, processor: Sa2VAProcessor, images: Sequence[Image.Image], seg_states: Sequence[list[Tensor]]
) -> list[tuple[Tensor, Tensor]]:
    """Mask logits (N, H, W) and IoU (N,) of each query; SAM 2 sees only the images that have a [SEG]."""
    masks = [(torch.zeros(0, image.height, image.width), torch.zeros(0)) for image in images]
    counts = {index: len(states) for index, states in enumerate(seg_states) if states}
    if not counts:
        return masks
    pixels = torch.stack([processor.grounding_image(images[index]) for index in counts]).to(model.device)
    logits, ious = model.grounding_encoder(
        normalize_grounding_images(pixels, model.dtype, constants_dtype=torch.bfloat16),
        model.text_hidden_fcs(torch.stack([state for states in seg_states for state in states])),
        torch.repeat_interleave(torch.tensor(list(counts.values()))).to(model.device),
    )
    per_image = zip(logits.split(list(counts.values())), ious.split(list(counts.values())), strict=True)
    for index, (logits_of_image, ious_of_image) in zip(counts, per_image, strict=True):
        size = (images[index].height, images[index].width)
        full = upsample_mask_logits(logits_of_image, processor.config.grounding_size, *size)
        masks[index] = (full.cpu(), ious_of_image.cpu())
    return masks


def greedy_answers(
    language_model,
    prompt_embeds: Sequence[Tensor],
    drafts: Sequence[list[int]],
    forced: Sequence[bool],
    seg_token_id: int,
    end_token_id: int,
    max_new_tokens: int,
) -> list[Answer]:
    """Greedy answers to B prompts of different lengths.

    Args:
        prompt_embeds: B tensors (L_b, D).
        drafts: what each answer is expected to be, end token not included; `forced` ones are taken as they are.
        max_new_tokens: an answer is cut off behind this many tokens.
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
        inputs_embeds=inputs_embeds, attention_mask=attention_mask, past_key_values=cache, use_cache=True
    ).last_hidden_state

    answers, unfinished = [], []
    for row, (prompt, draft) in enumerate(zip(prompt_embeds, drafts, strict=True)):
        spoken = hidden[row, len(prompt) - 1 : len(rows[row])]  # the last prompt token, then the draft's
        if forced[row]:
            said = [*draft, end_token_id]
        else:
            said = _accepted(draft, language_model.lm_head(spoken).argmax(dim=-1).tolist(), end_token_id)[
                :max_new_tokens
            ]
        # All tokens but the last were put in, so they have a state; the last one was only predicted.
        states = [spoken[1 + i] for i, token in enumerate(said[:-1]) if token == seg_token_id]
        answers.append(Answer(said, states))
        if said[-1] != end_token_id and len(said) < max_new_tokens:
            unfinished.append(row)
            attention_mask[row, len(prompt) + len(said) - 1 :] = False  # the rest of the draft was not said
    if unfinished:
        index = torch.tensor(unfinished, device=device)
        cache.batch_select_indices(index)
        _continue_greedily(
            language_model,
            cache,
            attention_mask[index],
            [answers[row] for row in unfinished],
            seg_token_id,
            end_token_id,
            max_new_tokens,
        )
    return answers


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


def _continue_greedily(
    language_model,
    cache: DynamicCache,
    attention_mask: Tensor,
    answers: list[Answer],
    seg_token_id: int,
    end_token_id: int,
    max_new_tokens: int,
) -> None:
    """Extends `answers` token by token until each has ended. Their last tokens are not yet in the cache.

    Args:
        attention_mask: (B, L) bool, which slots of the cache belong to the row.
    """
    done = [False] * len(answers)
    while not all(done):
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
        tokens = language_model.lm_head(hidden).argmax(dim=-1).tolist()
        for row, (answer, token) in enumerate(zip(answers, tokens, strict=True)):
            if done[row]:
                continue
            if answer.ids[-1] == seg_token_id:
                answer.seg_states.append(hidden[row])
            answer.ids.append(token)
            done[row] = token == end_token_id or len(answer.ids) >= max_new_tokens
