"""Cleaning of tweets (GRUBERT, section 2.1): functions from text to text, and a preprocessor for data sets."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from hf_layerfusion.data.spelling import LINK, USER, SpellingCorrector
from hf_layerfusion.errors import UserError, nearest

__all__ = ["PRESETS", "STEPS", "TweetPreprocessor"]

_LINK = re.compile(LINK, re.IGNORECASE)
_USER = re.compile(USER, re.IGNORECASE)
_HASHTAG = re.compile(r"#(?=\w)")

# The semicolon at the end of an HTML entity is not an eye: `&quot;)` closes a bracket.
_EYES = r"(?<!\d)(?<!&quot)(?<!&amp)(?<!&[lg]t)[:;=]"
_TEAR_OR_NOSE = r"['’`*]?[-o^]?"
# Match a run of brackets only from its first, because a long one would take quadratic time otherwise.
_EMOTICON = re.compile(
    rf"""
      (?P<heart>   (?:<|&lt;)3+(?!\d) )
    | (?P<smile>   {_EYES}{_TEAR_OR_NOSE}(?: [)\]}}]+ | [DPp]+(?!\w) )  # :)  ;-]  =D
                 | (?<![(\[{{])[(\[{{]+ ['’`*]?-? [:;=](?!\w) )          # (:  (-;  [=
    | (?P<frown>   {_EYES}{_TEAR_OR_NOSE}(?: [(\[{{]+ | [/\\](?![/\w]) )  # :(  :'(  =/
                 | (?<![)\]}}])[)\]}}]+ (?: ['’`*]-?[:;=] | -[:;=] | = ) # )':  )-:  )=   but not "(so):"
                 | (?<!\w) D[:=](?!\w) )
    | (?P<neutral> {_EYES}{_TEAR_OR_NOSE}\|+ | \|-?[:=] )                      # :|  =-|
    """,
    re.VERBOSE,
)


def collapse_whitespace(text: str) -> str:
    """Replace each run of whitespace (including U+0085 and no-break spaces) by one space, and strip the text."""
    return " ".join(text.split())


def mask_users(text: str, placeholder: str = "xxuser") -> str:
    """Replace `<user>` and each `@name` (not the `@` inside an e-mail address) by the placeholder."""
    return _USER.sub(placeholder, text)


def mask_links(text: str, placeholder: str = "xxurl") -> str:
    """Replace `<url>`, `http:…`, `www.…` and `host.tld/path` by the placeholder.

    Punctuation after a link stays.
    """
    return _LINK.sub(placeholder, text)


def space_hashtags(text: str) -> str:
    """Separate a hashtag from its word: `#fail` becomes `# fail` (GRUBERT's public code)."""
    return _HASHTAG.sub("# ", text)


def name_emoticons(text: str) -> str:
    """Replace emoticons by `xxemotsmile`, `xxemotfrown`, `xxemotneutral` or `xxemotheart`.

    The four names are those of GRUBERT's public code. Emoticons are recognized by their parts (eyes, tear or nose,
    mouth, in either order); a single colon, `http://` and HTML entities are not emoticons. Whitespace is collapsed.
    """
    return collapse_whitespace(_EMOTICON.sub(lambda match: f" xxemot{match.lastgroup} ", text))


STEPS: Mapping[str, Callable[[str], str]] = {
    "users": mask_users,
    "links": mask_links,
    "bertweet_users": partial(mask_users, placeholder="@USER"),
    "bertweet_links": partial(mask_links, placeholder="HTTPURL"),
    "hashtags": space_hashtags,
    "emoticons": name_emoticons,
    "lowercase": str.lower,
    "whitespace": collapse_whitespace,
}
"""Every step by name, except `spelling`, which uses the corrector."""

SPELLING = "spelling"

PRESETS: Mapping[str, tuple[str, ...]] = {
    "none": (),
    # The placeholders that BERTweet (Nguyen et al. 2020, section 2) was trained with. Its emoji names and its
    # word tokenization are left to its own tokenizer (`normalization=True`).
    "light": ("bertweet_users", "bertweet_links", "whitespace"),
    # GRUBERT, section 2.1. Duplicate rows are removed separately.
    "paper": ("users", "links", SPELLING, "whitespace"),
}
"""Steps of each preset of `--preprocessing`, in order."""


class TweetPreprocessor:
    """Cleaner of the text columns of a data set: `dataset.map(TweetPreprocessor("paper"), batched=True)`.

    It can be pickled and has the same `datasets` fingerprint in every process, so that a cleaned data set is found in
    the cache. A cleaned text may be empty; `empty_rows` finds such texts.

    Args:
        steps: A preset (`none`, `light`, `paper`) or the names of steps in the order in which they run.
        spelling: Corrector for the step `spelling`; None uses pyspellchecker's English.
        text_columns: Columns to clean; all others are unchanged.

    Raises:
        UserError: If a preset or step is unknown, a batch lacks a column, or a value is not a text.
    """

    def __init__(
        self,
        steps: str | Sequence[str] = "paper",
        spelling: SpellingCorrector | None = None,
        text_columns: Sequence[str] = ("text",),
    ) -> None:
        if isinstance(steps, str):
            if steps not in PRESETS:
                raise UserError(
                    f"preprocessing must be one of {', '.join(PRESETS)}, found {steps!r}; "
                    f"{nearest(steps, PRESETS)}"
                )
            steps = PRESETS[steps]
        unknown = [step for step in steps if step not in STEPS and step != SPELLING]
        if unknown:
            known = ", ".join([*STEPS, SPELLING])
            raise UserError(
                f"each step of preprocessing must be one of {known}, found {', '.join(unknown)}; "
                f"{nearest(unknown[0], [*STEPS, SPELLING])}"
            )
        self.steps = tuple(steps)
        self.spelling = SpellingCorrector() if spelling is None and SPELLING in self.steps else spelling
        self.text_columns = tuple(text_columns)

    def clean(self, text: str) -> str:
        """Run every step on one text."""
        for step in self.steps:
            function = self.spelling.correct if self.spelling and step == SPELLING else STEPS[step]
            text = function(text)
        return text

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
        """Clean the text columns of a batch of `datasets.Dataset.map(…, batched=True)`."""
        return {column: [self.clean(text) for text in _texts(batch, column)] for column in self.text_columns}


def _texts(batch: Mapping[str, Sequence[Any]], column: str) -> Sequence[str]:
    if column not in batch:
        raise UserError(f"text column {column!r} must be in the data. Found {', '.join(batch)}: name one")
    for text in batch[column]:
        if not isinstance(text, str):
            raise UserError(f"column {column!r} must hold text in every row. Found {text!r}: drop or fill it")
    return batch[column]


def empty_rows(texts: Sequence[str]) -> list[int]:
    """Return the indices of the texts that are empty or only whitespace, as cleaning may leave them."""
    return [row for row, text in enumerate(texts) if not text.strip()]
