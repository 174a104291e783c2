"""The texts a model is trained on: questions about a phrase, answers with [SEG] (docs/en/model_spec.md section 3.1), or
without it where there is no such object.
"""

from collections.abc import Iterable

import numpy as np

SEG = "[SEG]"
"""By this an answer says that there is a mask."""
_IMAGE_MARKER = "<image>"  # where a processor puts the image
_EVALUATION = "Please segment {} in this image."

# Upstream's ten, with their multiplicity in its list of sixteen.
_QUESTIONS = {
    "Can you segment the {} in this image?": 2,
    "Please segment {} in this image.": 2,
    "What is {} in this image? Please respond with segmentation mask.": 1,
    "What is {} in this image? Please output segmentation mask.": 1,
    "What is {} in this image? Please respond with segmentation mask?": 1,
    "What is {} in this image? Please output segmentation mask?": 1,
    "Could you provide a segmentation mask for the {} in this image?": 2,
    "Please identify and segment the {} in this image.": 2,
    "Where is the {} in this picture? Please respond with a segmentation mask.": 2,
    "Can you highlight the {} in this image with a segmentation mask?": 2,
}
_QUESTION_LIST = [question for question, times in _QUESTIONS.items() for _ in range(times)]
_ANSWERS = [
    "It is [SEG].",
    "Sure, [SEG].",
    "Sure, it is [SEG].",
    "Sure, the segmentation result is [SEG].",
    "[SEG].",
]
_ANSWERS_WITHOUT = [  # upstream has none
    "There is no {} in this image.",
    "No, this image shows no {}.",
    "I see no {} in this image.",
]


def evaluation_prompt(phrase: str) -> str:
    """The question by which a phrase is asked for outside training."""
    return f"{_IMAGE_MARKER}\n{_EVALUATION.format(_normalized(phrase))}"


def asks_for(prompt: str, phrase: str) -> bool:
    """Whether a question is the one of `evaluation_prompt`, with the image's marker or without it."""
    return prompt.removeprefix(f"{_IMAGE_MARKER}\n") == _EVALUATION.format(_normalized(phrase))


def phrase_of(prompt: str) -> str | None:
    """The phrase that `evaluation_prompt` made a question of; None for other questions."""
    before, after = _EVALUATION.split("{}")
    phrase = prompt.removeprefix(f"{_IMAGE_MARKER}\n").removeprefix(before).removesuffix(after)
    return phrase if asks_for(prompt, phrase) else None


def training_turns(objects: Iterable[tuple[str, bool]], random: np.random.Generator) -> list[tuple[str, str]]:
    """One (question, answer) for each phrase, drawn at random; the image stands in the first question.

    Args:
        objects: phrases, each with whether such an object is on the image: only then has the answer a [SEG].
    """
    turns = []
    for number, (phrase, is_there) in enumerate(objects):
        question = _asked(_QUESTION_LIST[random.integers(len(_QUESTION_LIST))], phrase, number)
        answers = possible_answers(phrase, is_there)
        turns.append((question, answers[random.integers(len(answers))]))
    return turns


def possible_questions(phrase: str, number: int) -> list[str]:
    """All questions that `training_turns` may draw for a sample's phrase. `number`: its place in the sample, from 0."""
    return [_asked(question, phrase, number) for question in _QUESTIONS]


def possible_answers(phrase: str, is_there: bool) -> list[str]:
    """All answers that `training_turns` may draw about a phrase."""
    return _ANSWERS if is_there else [answer.format(_normalized(phrase)) for answer in _ANSWERS_WITHOUT]


def _asked(question: str, phrase: str, number: int) -> str:
    marker = f"{_IMAGE_MARKER}\n" if number == 0 else ""
    return marker + question.format(_normalized(phrase))


def _normalized(phrase: str) -> str:
    return phrase.lower().removesuffix(".")
