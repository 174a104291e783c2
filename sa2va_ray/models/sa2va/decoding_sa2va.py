"""From embedded prompts to token ids: batched, greedy, with a drafted answer.

The usual answer is known beforehand ("Sure, [SEG]."). It is appended to the prompt as a draft, and one forward pass
over prompt and draft shows, token by token, whether greedy decoding would have said the same. Where it would not,
decoding goes on from the first difference. The result is that of plain greedy decoding in both cases.

Shapes: B prompts, L tokens, D width of the language model, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

_LEAST_TEMPERATURE = 1e-6  # far below it quotients overflow

AnyRank = Callable[[bool], bool]
"""Whether a thing is so in any of the processes that share a model, all of which ask at the same places. `bool` is
that of a process on its own."""


@dataclass(frozen=True)
class Sampling:
    """Draws tokens instead of taking the likeliest: `temperature` of 1e-6 and more, and `top_p` in (0, 1], the share of
    the probability that the likeliest tokens must have together to be drawn from.

    Raises:
        ValueError: one of them is out of range.
    """

    temperature: float
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not _LEAST_TEMPERATURE <= self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; give {_LEAST_TEMPERATURE} or more, or 0 for greedy.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; give a share above 0 and up to 1.")


@dataclass
class DecodedAnswer:
    """Token ids that the language model said, and the hidden states (D,) at those of its [SEG] tokens that have one.

    A [SEG] that is the last token of an answer cut off by its length has no state (docs/en/model_spec.md section 4).
    """

    ids: list[int]
    seg_states: list[Tensor]


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
    prefill: Callable[[Tensor], Tensor] | None = None,
) -> list[DecodedAnswer]:
    """Answers to B prompts of different lengths, greedy where `sampling` is None.

    Args:
        prompt_embeds: B tensors (L_b, D).
        drafts: what each answer is expected to be, end token not included; `forced` ones are taken as they are. Empty
            ones where tokens are drawn.
        max_new_tokens: an answer is cut off behind this many tokens.
        any_rank: see `segment`. `forced` ones are then forced in all processes.
        prefill: a quicker way from (B, L, D) right-padded embeddings to the hidden states (B, L, D) after the final
            norm, which keeps no cache: an answer that is not its draft costs a second pass over its prompt.
    """
    embedding = language_model.get_input_embeddings()
    device = prompt_embeds[0].device
    draft_ids = torch.tensor([token for draft in drafts for token in draft], dtype=torch.int64, device=device)
    draft_embeds = embedding(draft_ids).split([len(draft) for draft in drafts])
    rows = [torch.cat(pair) for pair in zip(prompt_embeds, draft_embeds, strict=True)]
    if prefill:
        hidden, context = prefill(pad_sequence(rows, batch_first=True)), None
    else:
        hidden, context = _prefill(language_model, rows)
    # Of each answer: the state of the last prompt token, then those of the draft's.
    spoken = [hidden[n, len(prompt) - 1 : len(rows[n])] for n, prompt in enumerate(prompt_embeds)]
    if all(forced):
        said = [[*draft, end_token_id] for draft in drafts]
    else:
        predicted = iter(_choose(language_model.lm_head(torch.cat(spoken)), sampling))
        said = [
            _accepted(draft, list(islice(predicted, len(states))), end_token_id)[:max_new_tokens]
            for draft, states in zip(drafts, spoken, strict=True)
        ]
        said = [[*drafts[n], end_token_id] if is_forced else said[n] for n, is_forced in enumerate(forced)]
    # All tokens but the last were put in, so they have a state; the last one was only predicted.
    answers = [
        DecodedAnswer(ids, [states[1 + i] for i, token in enumerate(ids[:-1]) if token == seg_token_id])
        for ids, states in zip(said, spoken, strict=True)
    ]
    unfinished = [n for n, answer in enumerate(answers) if not _has_ended(answer, end_token_id, max_new_tokens)]
    if any_rank(bool(unfinished)):
        rows_left = unfinished or [0]  # an answer that has ended, in step with the other processes
        kept = [len(prompt_embeds[n]) + len(said[n]) - 1 for n in rows_left]  # the rest of the draft was not said
        if context is None:
            _, context = _prefill(language_model, [_row_of(n, prompt_embeds, said, embedding) for n in rows_left])
        else:
            context.keep(rows_left)
        context.forget_behind(kept)
        left = [answers[n] for n in rows_left]
        _continue(language_model, context, left, seg_token_id, end_token_id, max_new_tokens, sampling, any_rank)
    return answers


@dataclass
class _Context:
    """What was put in so far: the cache, and `mask` (B, L) bool, which of its slots belong to each row."""

    cache: DynamicCache
    mask: Tensor

    def keep(self, rows: list[int]) -> None:
        index = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask = self.mask[index]

    def forget_behind(self, lengths: list[int]) -> None:
        self.mask &= _is_within(lengths, self.mask.shape[1], self.mask.device)


def _prefill(language_model, rows: list[Tensor]) -> tuple[Tensor, _Context]:
    """B embedded rows (L_b, D) -> hidden states (B, L, D) and what decoding goes on from."""
    inputs_embeds = pad_sequence(rows, batch_first=True)
    mask = _is_within([len(row) for row in rows], inputs_embeds.shape[1], inputs_embeds.device)
    cache = DynamicCache(config=language_model.config)
    hidden = language_model.model(
        inputs_embeds=inputs_embeds,
        attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return hidden, _Context(cache, mask)


def _is_within(lengths: list[int], width: int, device: torch.device) -> Tensor:
    """(B, width) bool, true for the first slots of each row."""
    return torch.arange(width, device=device) < torch.tensor(lengths, device=device).unsqueeze(1)


def _row_of(number: int, prompt_embeds: Sequence[Tensor], said: list[list[int]], embedding) -> Tensor:
    """A prompt with all that was said but the last token, which `_continue` puts in."""
    prompt = prompt_embeds[number]
    ids = torch.tensor(said[number][:-1], dtype=torch.int64, device=prompt.device)
    return torch.cat([prompt, embedding(ids)])


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
    context: _Context,
    answers: list[DecodedAnswer],
    seg_token_id: int,
    end_token_id: int,
    max_new_tokens: int,
    sampling: Sampling | None,
    any_rank: AnyRank,
) -> None:
    """Extends `answers` token by token until each has ended. Their last tokens are not yet in the cache."""
    done = [_has_ended(answer, end_token_id, max_new_tokens) for answer in answers]
    while any_rank(not all(done)):
        last = torch.tensor([[answer.ids[-1]] for answer in answers], device=context.mask.device)
        position_ids = context.mask.sum(dim=1, keepdim=True)
        context.mask = torch.cat([context.mask, torch.ones_like(last, dtype=torch.bool)], dim=1)
        hidden = language_model.model(
            input_ids=last,
            attention_mask=context.mask,
            position_ids=position_ids,
            past_key_values=context.cache,
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
