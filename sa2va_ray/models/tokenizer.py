"""The tokenizer of models that are built without a base: real byte-level BPE, small enough to be made in a second.

It has the structure of Qwen2's as InternVL3 and Sa2VA extend it (docs/en/model_spec.md section 1.9), and a vocabulary
of a few hundred instead of 151,679. Models with a base take the base's own.
"""

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sa2va_ray.models.sa2va.processing_sa2va import IMAGE_END, IMAGE_START, IMAGE_TOKEN, NEW_TOKENS

_VOCABULARY_SIZE = 400
_QWEN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CORPUS = (
    "user\n assistant\n Can you segment the blood vessel in this image? Please segment the blood vessels.",
    "What is the vessel in this image? Please respond with a segmentation mask. Please output segmentation mask.",
    "Could you provide a segmentation mask for the artery in this image? Please identify and segment the vein.",
    "Where is the vessel in this picture? Can you highlight the blood vessels in this image?",
    "Sure, it is . It is . Sure, the segmentation result is .",
)


def build_tokenizer() -> PreTrainedTokenizerBase:
    """Byte-level BPE with Qwen2's chat tokens, InternVL3's image tokens and Sa2VA's own, `[SEG]` the first of these."""
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        _CORPUS, BpeTrainer(vocab_size=_VOCABULARY_SIZE, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<|endoftext|>", eos_token="<|im_end|>", clean_up_tokenization_spaces=False
    )
    tokenizer.add_tokens([*_QWEN_TOKENS, IMAGE_START, IMAGE_END, IMAGE_TOKEN, *NEW_TOKENS], special_tokens=True)
    return tokenizer
