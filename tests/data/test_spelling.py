"""The judge is pyspellchecker itself: its candidates, with the smallest of the most frequent."""

import gzip
import json
import pickle
import string
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spellchecker import SpellChecker

from hf_layerfusion.data.spelling import SpellingCorrector
from hf_layerfusion.errors import UserError

# Few letters, so that ties, swaps and words two edits away abound; one letter with a diacritic; an apostrophe inside.
FREQUENCIES = {
    "abc": 7,
    "cba": 7,
    "bca": 7,
    "aabb": 3,
    "bbaa": 9,
    "abécc": 5,
    "abecc": 4,
    "abacc": 50,
    "c'ab": 2,
    "cabcab": 1,
    "bacbacb": 1,
    "bb": 6,
    "é": 2,
    "è": 1,
}


@pytest.fixture(scope="module")
def small_dictionary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spelling") / "words.json"
    path.write_text(json.dumps(FREQUENCIES), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def small_checker(small_dictionary: Path) -> SpellChecker:
    return SpellChecker(language=None, local_dictionary=small_dictionary)


@pytest.fixture(scope="module")
def small(small_dictionary: Path) -> SpellingCorrector:
    return SpellingCorrector(dictionary=small_dictionary)


@pytest.fixture(scope="module")
def english() -> SpellingCorrector:
    return SpellingCorrector()


def without_diacritics(word: str) -> str:
    return "".join(sign for sign in unicodedata.normalize("NFKD", word) if not unicodedata.combining(sign))


def pyspellchecker_answer(checker: SpellChecker, word: str) -> str:
    """pyspellchecker's answer to a lower-case word, the smallest where it chooses by hash order."""
    candidates = checker.candidates(word)
    if candidates is None:
        return word
    accented = {known for known in candidates if without_diacritics(known) == without_diacritics(word)}
    return min(accented or candidates, key=lambda known: (-checker[known], known))


WORDS = st.from_regex(r"[abcxéô](?:[abcxéô']{0,5}[abcxéô])?", fullmatch=True)


@settings(max_examples=150, deadline=None)
@given(word=WORDS)
def test_answers_are_pyspellcheckers(
    small: SpellingCorrector, small_checker: SpellChecker, word: str
) -> None:
    answer = small.correct(word)
    if "ô" in word:  # no letter of the dictionary
        assert answer == word
        return

    assert answer == pyspellchecker_answer(small_checker, word)
    # Its own choice differs by a tie at most.
    theirs = small_checker.correction(word) or word
    assert small_checker[answer] == small_checker[theirs]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("bac", "abc"),  # one edit from abc and from bca, which are as frequent
        ("abècc", "abécc"),  # abacc is the most frequent, but abécc and abecc differ in the diacritic alone
        ("xxcbaxx", "xxcbaxx"),  # four edits away
        ("xcbax", "cba"),  # two edits away
    ],
)
def test_hand_computed_answers(small: SpellingCorrector, word: str, expected: str) -> None:
    assert small.correct(word) == expected


def test_the_smallest_word_wins_a_tie(tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_text(
        json.dumps({f"a{letter}": 1 for letter in reversed(string.ascii_lowercase)}), encoding="utf-8"
    )

    assert SpellingCorrector(dictionary=path).correct("a") == "aa"


def test_an_insertion_into_a_swap_is_two_edits(tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_text('{"abc": 1}', encoding="utf-8")

    # Optimal string alignment counts three.
    assert SpellingCorrector(dictionary=path).correct("ca") == "abc"


def test_every_short_word_is_answered_as_by_pyspellchecker(
    small: SpellingCorrector, small_checker: SpellChecker
) -> None:
    words = [first + second + third for first in "abcx" for second in "abcx'" for third in "abcx"]

    assert {word: small.correct(word) for word in words} == {
        word: pyspellchecker_answer(small_checker, word) for word in words
    }


def test_real_words_on_the_english_dictionary(english: SpellingCorrector) -> None:
    checker = SpellChecker()
    # Two edits take pyspellchecker half a second a word, one edit a millisecond.
    words = "recieve definately teh freind tommorow wierd acheive thier becuase goverment".split()
    words += ["bananna", "ligth", "wgn", "frnd"]

    assert [english.correct(word) for word in words] == [
        pyspellchecker_answer(checker, word) for word in words
    ]


def test_two_edits_on_the_english_dictionary(english: SpellingCorrector) -> None:
    checker = SpellChecker()
    # "acommodatt" has no word one edit away.
    for word in ("acommodatt", "persnn"):
        assert english.correct(word) == pyspellchecker_answer(checker, word) != word


@pytest.mark.parametrize("word", ["nan", "inf"])
def test_words_that_read_as_numbers_are_words(
    small: SpellingCorrector, small_checker: SpellChecker, word: str
) -> None:
    assert small.correct(word) == pyspellchecker_answer(small_checker, word)


@pytest.mark.parametrize(
    "token",
    [
        "xxuser",
        "xxurl",
        "xxemotsmile",
        "XXURL",
        "HTTPURL",
        "@USER",
        "<user>",
        "<url>",
        "#fial",
        "# fial",
        "@fial",
        "http://teh.cm/fial",
        "https://t.co/fial.",
        "www.fial.cm",
        "bit.ly/fial",
        "2moro",
        "1984",
        "3.14",
        "snake_csae",
        "&quot;",
        "&fial;",
        "...",
        "—",
        "",
        "\x85",
        "'",
    ],
)
def test_never_corrected(english: SpellingCorrector, token: str) -> None:
    assert english.correct(token) == token


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Teh", "The"),
        ("TEH", "THE"),
        ("(teh)!", "(the)!"),
        ("  teh\tcat\u0085\n", "  the\tcat\u0085\n"),
        ('"teh"—teh', '"the"—the'),
        ("@teh teh #teh teh xxuser", "@teh the #teh the xxuser"),
        ("The Cat", "The Cat"),
        ("qzxqzxqzxqzx", "qzxqzxqzxqzx"),
    ],
)
def test_case_and_surroundings_stay(english: SpellingCorrector, text: str, expected: str) -> None:
    assert english.correct(text) == expected


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=30))
def test_any_text_is_taken_and_only_words_change(small: SpellingCorrector, text: str) -> None:
    def outside_words(value: str) -> list[str]:
        return [sign for sign in value if not (sign.isalnum() or sign in "'_" or unicodedata.combining(sign))]

    assert outside_words(small.correct(text)) == outside_words(text)


@pytest.mark.parametrize(
    "text", ["ï¿½ teh", "â€™tis", "\ud83d", "İİ", "ﬁsh", "ああ", "a" * 10_000, "a'" * 10_000]
)
def test_broken_text_is_taken(english: SpellingCorrector, text: str) -> None:
    assert isinstance(english.correct(text), str)


def test_each_distinct_word_is_searched_once(
    small: SpellingCorrector, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[str] = []

    def nearest(word: str) -> str:
        searched.append(word)
        return word

    monkeypatch.setattr(small, "_nearest", nearest)
    monkeypatch.setattr(small, "corrections", {})

    small.correct_many(["abx", "abx", "ABX"], progress=False)
    small.correct("abx bb axc abx")

    assert searched == ["abx", "axc"]
    assert small.corrections == {"abx": "abx", "axc": "axc"}


def test_correct_many(small: SpellingCorrector, capsys: pytest.CaptureFixture[str]) -> None:
    assert small.correct_many(["bac", "xcbax", "bac"], progress=False) == {"bac": "abc", "xcbax": "cba"}
    assert capsys.readouterr().err == ""

    small.correct_many(["bac"])
    assert "spelling: 100%" in capsys.readouterr().err


def test_other_languages() -> None:
    assert SpellingCorrector("es").correct("pregnuta") == "pregunta"


def test_gzipped_dictionary(tmp_path: Path) -> None:
    path = tmp_path / "words.json.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        json.dump({"Zebra": 1}, file)

    assert SpellingCorrector(dictionary=path).correct("zbera") == "zebra"


def test_pickle_keeps_the_settings_and_not_the_answers(small: SpellingCorrector) -> None:
    before = pickle.dumps(small)
    small.correct("abx")

    assert pickle.dumps(small) == before
    assert len(before) < 1_000
    assert pickle.loads(before).correct("bac") == "abc"


def test_pickle_tells_dictionaries_apart(tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_text('{"abc": 1}', encoding="utf-8")
    first = pickle.dumps(SpellingCorrector(dictionary=path))
    path.write_text('{"abc": 2}', encoding="utf-8")

    assert pickle.dumps(SpellingCorrector(dictionary=path)) != first


@pytest.mark.parametrize("content", [None, "", "{}", "[1, 2", '{"word": "often"}', "3"])
def test_bad_dictionaries(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "words.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")

    with pytest.raises(UserError, match=r"dictionary must .*words\.json") as raised:
        SpellingCorrector(dictionary=path)
    assert "\n" not in str(raised.value)


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_bytes('{"é": 1}'.encode("latin-1"))

    with pytest.raises(UserError, match="dictionary must be JSON"):
        SpellingCorrector(dictionary=path)


def test_unknown_language() -> None:
    with pytest.raises(UserError, match=r"language must be one of ar, de, en.*found 'klingon'"):
        SpellingCorrector("klingon")


def test_ascii_words_are_corrected_whatever_letters_the_dictionary_has(
    small: SpellingCorrector, small_checker: SpellChecker
) -> None:
    for letter in string.ascii_lowercase:
        assert small.correct(f"ab{letter}") == pyspellchecker_answer(small_checker, f"ab{letter}")


# Words that the first versions spoilt, and their like in other scripts and with other signs
CORRECT = (
    "isn’t wasn’t didn’t ISN’T Isn‘t it´s itʼs it＇s не да 你好 é É café résumé nai\u0308ve naïve ﬁsh İstanbul "
    "do\u200bnt wonder\u00adfull lo\u200dvee teh\ufeffe teh😀teh x\u0301 teh\u0301 ab\ufe0fcd ｆｕｌｌ"
)


@pytest.mark.parametrize("word", CORRECT.split(" "))
def test_words_that_the_dictionary_cannot_judge_stay_letter_by_letter(
    english: SpellingCorrector, word: str
) -> None:
    assert english.correct(word) == word
    assert english.correct(f"Teh {word}, teh") == f"The {word}, the"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("isnn’t", "isn’t"),
        ("isnn´t ISNN’T", "isn´t ISN’T"),
        ("teh😀", "the😀"),
        ("“teh”", "“the”"),
        ("‘teh’", "‘the’"),
        ("#cafe\u0301s teh", "#cafe\u0301s the"),
    ],
)
def test_misspelled_words_beside_other_signs_are_corrected(
    english: SpellingCorrector, text: str, expected: str
) -> None:
    assert english.correct(text) == expected


def test_letters_of_the_language_are_corrected() -> None:
    german = SpellingCorrector("de")
    assert german.correct("schönn scho\u0308nn") == "schön schön"
    assert german.correct("señor не") == "señor не"
