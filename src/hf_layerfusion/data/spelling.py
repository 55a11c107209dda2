"""Fast spelling correction with the results of pyspellchecker, in a fraction of a millisecond per word.

pyspellchecker (Barros 2018, used by GRUBERT, section 2.1) generates every string within two edits of a word, some
hundred thousand of them, and looks each up. Here the dictionary is searched instead: a bit mask of each dictionary
word's letters leaves a few hundred words that can be within two edits, and rapidfuzz's unrestricted Damerau-Levenshtein
distance, which counts exactly the edits of pyspellchecker (successive deletions, insertions, replacements and swaps of
neighbours), decides among those.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from hf_layerfusion.errors import UserError, nearest, one_line

if TYPE_CHECKING:
    from spellchecker import SpellChecker

MAX_EDITS = 2

LINK = (
    r"<url>"
    r"|(?:https?:|(?<!\w)www\.)\S*[^\s.,;:!?'\"()\[\]<>]"
    # Without a scheme a link needs a path: "home.now" is two words far more often than a host.
    r"|(?<![\w.-])\w[\w-]*(?:\.[\w-]+)*\.[a-z]{2,}/\S*[^\s.,;:!?'\"()\[\]<>]"
)
USER = r"<user>|(?<!\w)[@＠]\w+"
# Characters that are read as "'" inside a word.
_APOSTROPHES = "\u2019\u2018\u02bc\u00b4\uff07"
_MARKS = "\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff"
# Soft hyphen, zero-width signs and joiners, variation selectors; emoji and their modifiers.
_UNREAD = "\u00ad\u200b-\u200f\u2060-\u2064\ufeff\ufe00-\ufe0f\u2600-\u27bf\U0001f000-\U0001faff\U000e0020-\U000e007f"
_KEPT = rf"{LINK}|{USER}|# ?[\w{_MARKS}]+|<\w+>|&#?\w+;|\b(?:xx(?:user|url|emot[a-z]*)|HTTPURL)\b"
_TOKEN = re.compile(
    rf"(?:{_KEPT})|(?P<word>\w(?:[\w'{_APOSTROPHES}{_MARKS}{_UNREAD}]*[\w{_MARKS}])?)", re.IGNORECASE
)
_AS_APOSTROPHE = str.maketrans(dict.fromkeys(_APOSTROPHES, "'"))
_NO_LETTER_OR_APOSTROPHE = re.compile(r"[\d_]|[^\w']")
# Version of the rules, part of the fingerprint of cached texts. Increase it when corrections change.
_RULES = 2


class SpellingCorrector:
    """Corrector of misspelled words with the results of `spellchecker.SpellChecker(distance=2).correction`.

    The correction of an unknown word is the most frequent dictionary word one edit away, otherwise two edits away;
    candidates that differ from it only in diacritics come first. pyspellchecker breaks ties by hash order, here the
    alphabetically first word wins. A word without candidates is unchanged.

    Words are those of pyspellchecker's `split_words` (`\\w[\\w']*\\w` or a single `\\w`: letters and digits, with
    apostrophes inside), so punctuation and whitespace around a word are unchanged. The following are not corrected:
    known words, words with a digit or underscore, placeholders (`xxuser`, `xxurl`, `xxemot…`, `HTTPURL`, `<user>`,
    `<url>`), hashtags (also with one space after `#`), @names, links and HTML entities. `Teh` becomes `The`, `TEH`
    `THE`.

    Non-ASCII words are read in Unicode's composed form (NFC), with the typographic apostrophes of `isn’t` as `'`; the
    corrected word keeps the original apostrophe. Words are also left alone if they contain a letter that is neither
    ASCII nor used in the dictionary's language (another script; accents in English), or a soft hyphen, a zero-width
    character or an emoji.

    An instance caches its corrections of unknown words (`corrections`, in lower case), so that each distinct word of a
    corpus is searched once. Pickling keeps the settings and a digest of the dictionary instead of the corrections, so
    that a `datasets` fingerprint is the same in every process.

    Args:
        language: Language of pyspellchecker (`SpellChecker.languages()`); ignored if `dictionary` is given.
        dictionary: File in pyspellchecker's format: JSON, `{word: frequency}`, `.gz` or plain.

    Raises:
        UserError: If the language is unknown, or the dictionary is missing, unreadable or empty.
    """

    def __init__(self, language: str = "en", dictionary: str | Path | None = None) -> None:
        self.language = language
        self.dictionary = None if dictionary is None else str(dictionary)
        checker = _load(language, self.dictionary)
        frequencies = checker.word_frequency.dictionary
        # `known` leaves out words that pyspellchecker never returns: numbers and single punctuation marks.
        self._frequencies = {word: frequencies[word] for word in checker.known(frequencies)}
        words = sorted(self._frequencies, key=len)
        self._words = np.array(words, dtype=object)
        self._lengths = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
        self._letters = _letters_beyond_ascii(self._frequencies)
        self._masks = np.fromiter(map(_letter_mask, words), dtype=np.uint64, count=len(words))
        self.corrections: dict[str, str] = {}

    def correct(self, text: str) -> str:
        """Correct a word, or each word of a text, leaving everything between words unchanged."""
        return _TOKEN.sub(self._correct_token, text)

    def correct_many(self, words: Iterable[str], progress: bool = True) -> dict[str, str]:
        """Correct each distinct word with a progress bar, and return `{word: correction}`."""
        distinct = dict.fromkeys(words)
        bar = tqdm(distinct, "spelling", unit="word", disable=not progress)
        return {word: self.correct(word) for word in bar}

    def _correct_token(self, match: re.Match[str]) -> str:
        if match["word"] is None:
            return match[0]
        word = match[0] if match[0].isascii() else _composed(match[0])
        if _NO_LETTER_OR_APOSTROPHE.search(word):
            return match[0]
        lowered = word.lower()
        if lowered in self._frequencies or not self._has_its_letters(lowered):
            return match[0]
        if lowered not in self.corrections:
            self.corrections[lowered] = self._nearest(lowered)
        answer = self.corrections[lowered]
        if answer == lowered:
            return match[0]
        apostrophe = next((sign for sign in match[0] if sign in _APOSTROPHES), "'")
        return self._in_case_of(word, answer).replace("'", apostrophe)

    def _has_its_letters(self, word: str) -> bool:
        """Return whether every letter of the word is ASCII or used in the dictionary's language."""
        return word.isascii() or all(letter.isascii() or letter in self._letters for letter in word)

    @staticmethod
    def _in_case_of(word: str, answer: str) -> str:
        if word.isupper() and len(word) > 1:
            return answer.upper()
        return answer[:1].upper() + answer[1:] if word[0].isupper() else answer

    def _nearest(self, word: str) -> str:
        """Return the best dictionary word within two edits of an unknown lower-case word, or the word itself."""
        start, end = np.searchsorted(self._lengths, [len(word) - MAX_EDITS, len(word) + MAX_EDITS + 1])
        if start == end:
            return word
        masks, mask = self._masks[start:end], np.uint64(_letter_mask(word))
        # An edit adds at most one letter and removes at most one, so it changes at most one bit each way.
        gained, lost = np.bitwise_count(masks & ~mask), np.bitwise_count(~masks & mask)
        words = self._words[start:end][(gained <= MAX_EDITS) & (lost <= MAX_EDITS)]
        if not words.size:
            return word
        from rapidfuzz.distance import DamerauLevenshtein
        from rapidfuzz.process import cdist

        scorer = DamerauLevenshtein.distance
        edits = cdist([word], words, scorer=scorer, score_cutoff=MAX_EDITS, dtype=np.uint8)[0]
        fewest = edits.min()
        if fewest > MAX_EDITS:
            return word
        candidates = words[edits == fewest].tolist()
        plain = _without_diacritics(word)
        same_letters = [candidate for candidate in candidates if _without_diacritics(candidate) == plain]
        return min(same_letters or candidates, key=lambda known: (-self._frequencies[known], known))

    def __reduce__(self) -> tuple[Any, ...]:
        entries = "\n".join(sorted(f"{word} {frequency}" for word, frequency in self._frequencies.items()))
        digest = hashlib.sha256(entries.encode("utf-8", "surrogatepass")).hexdigest()
        return type(self), (self.language, self.dictionary), {"_digest": f"{_RULES} {digest}"}


def _load(language: str, dictionary: str | None) -> "SpellChecker":
    from spellchecker import SpellChecker

    if dictionary is None:
        languages = sorted(SpellChecker.languages())
        if language not in languages:
            raise UserError(
                f"language must be one of {', '.join(languages)}, or give a dictionary, found {language!r}; "
                f"{nearest(language, languages)}"
            )
        return SpellChecker(language=language)
    try:
        checker = SpellChecker(language=None, local_dictionary=dictionary)
    except (OSError, EOFError, ValueError, TypeError) as error:
        raise UserError(
            f"dictionary must be JSON {{word: frequency}}, plain or .gz. Found {dictionary!r}: {one_line(error)}"
        ) from error
    if not checker.word_frequency.dictionary:
        raise UserError(f"dictionary must hold at least one word. Found none in {dictionary!r}: add words")
    return checker


def _letter_mask(word: str) -> int:
    """Return a bit mask of 32 letter classes: one occurrence in the low half, a second one in the high half."""
    mask = 0
    for letter in word:
        bit = 1 << (ord(letter) & 31)
        mask |= bit << 32 if mask & bit else bit
    return mask


def _letters_beyond_ascii(frequencies: Mapping[str, int]) -> frozenset[str]:
    """Return the non-ASCII letters used in the language, such as ä in German.

    A letter counts if it occurs in at least one of 20,000 words of running text; English has such letters only in rare
    loan words.
    """
    total = 0
    counts: Counter[str] = Counter()
    for word, frequency in frequencies.items():
        total += frequency
        if not word.isascii():
            counts.update(dict.fromkeys(set(unicodedata.normalize("NFC", word)), frequency))
    return frozenset(
        letter for letter, count in counts.items() if not letter.isascii() and count >= total / 20_000
    )


def _composed(word: str) -> str:
    return unicodedata.normalize("NFC", word.translate(_AS_APOSTROPHE))


def _without_diacritics(word: str) -> str:
    if word.isascii():
        return word
    letters = unicodedata.normalize("NFKD", word)
    return "".join(letter for letter in letters if not unicodedata.combining(letter))
