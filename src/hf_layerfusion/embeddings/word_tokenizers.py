"""Tokenizers of words, made of `tokenizers` alone, so that `AutoTokenizer` opens them without code of ours."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hf_layerfusion.modeling.tokenization_words import CHARACTERS, WordTokenizer
from hf_layerfusion.modeling.tokenization_words import LOOKUPS as LOOKUPS

PAD, UNKNOWN = "[PAD]", "[UNK]"
SPECIAL_WORDS = (PAD, UNKNOWN)
"""Rows 0 and 1 of every vocabulary."""

TOKENIZATIONS = ("whitespace", "tweet")
"""Names of the tokenizations: at white space alone, as in GRUBERT, or with punctuation and clitics split off."""

# The first that fits: an address, a placeholder such as <user>, a smiley, a word up to its clitic, the
# clitics as GloVe's vocabulary has them, a number, a word, an ellipsis, and any other character by itself.
_TWEET = "|".join(
    (
        r"https?://\S+|www\.\S+",
        r"<[a-z]+>",
        r"[:;=][-']?[()\[\]dDpP/\\|*]|<3",
        r"\w+?(?=n't\b)|n't\b|'(?:s|re|ve|ll|m|d)\b",
        r"\d+(?:[.,:]\d+)*",
        r"\w+(?:-\w+)*",
        r"\.{3}",
        r"[^\w\s]",
    )
)


def word_splitter(tokenization: str) -> tuple[normalizers.Normalizer | None, pre_tokenizers.PreTokenizer]:
    """Return the normalizer, if any, and the pre-tokenizer of one of `TOKENIZATIONS`."""
    if tokenization == "whitespace":
        return None, pre_tokenizers.WhitespaceSplit()
    apostrophe = normalizers.Replace("\u2019", "'")
    return apostrophe, pre_tokenizers.Split(Regex(f"(?i:{_TWEET})"), "removed", invert=True)


def word_level(words: Sequence[str], tokenization: str, may_lower: bool = True) -> Tokenizer:
    """Return a tokenizer whose vocabulary is `SPECIAL_WORDS` and `words`.

    Texts are lower-cased where no word has a capital letter and `may_lower` allows it.

    Args:
        words: different words, none of them special.
        tokenization: one of `TOKENIZATIONS`.
    """
    vocabulary = {word: number for number, word in enumerate((*SPECIAL_WORDS, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    normalizer, tokenizer.pre_tokenizer = word_splitter(tokenization)
    steps = [] if normalizer is None else [normalizer]
    if may_lower and words and is_lower_case(words):
        steps.append(normalizers.Lowercase())
    if steps:
        tokenizer.normalizer = normalizers.Sequence(steps)
    return tokenizer


def is_lower_case(words: Sequence[str]) -> bool:
    """Return whether no word has a capital letter."""
    return all(word == word.lower() for word in words)


def static_tokenizer(words: Sequence[str], tokenization: str) -> PreTrainedTokenizerFast:
    """Return `word_level` as a tokenizer of transformers. It adds no special tokens, to pairs neither."""
    return PreTrainedTokenizerFast(
        tokenizer_object=word_level(words, tokenization),
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_input_names=["input_ids", "attention_mask"],
    )


def word_tokenizer(
    words: Sequence[str], tokenization: str, lookup: str = "exact", has_characters: bool = True
) -> WordTokenizer:
    """Return `word_level` as a tokenizer that tells the texts of a pair apart and can give words' characters.

    Args:
        words: the vocabulary; empty where words are read by their characters alone.
        tokenization: one of `TOKENIZATIONS`.
        lookup: one of `LOOKUPS`.
        has_characters: whether it gives `char_ids`.
    """
    tokenizer = word_level(words, tokenization, may_lower=lookup == "exact")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A:0", pair="$A:0 $B:1", special_tokens=[]
    )
    names = ["input_ids", "token_type_ids", "attention_mask", CHARACTERS]
    return WordTokenizer(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        lookup=lookup,
        model_input_names=names if has_characters else ["input_ids", "attention_mask"],
    )
