import os
import pickle
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from datasets.fingerprint import Hasher
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_layerfusion.data import tweets
from hf_layerfusion.data.spelling import SpellingCorrector
from hf_layerfusion.data.tweets import PRESETS, SPELLING, STEPS, TweetPreprocessor, empty_rows
from hf_layerfusion.errors import UserError


@pytest.fixture(scope="module")
def spelling(tmp_path_factory: pytest.TempPathFactory) -> SpellingCorrector:
    path = tmp_path_factory.mktemp("tweets") / "words.json"
    path.write_text('{"the": 9, "cat": 5, "hello": 3, "sat": 2}', encoding="utf-8")
    return SpellingCorrector(dictionary=path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a  b", "a b"),
        ("\ta\nb\r\n", "a b"),
        ("a\u0085b\u2028c\u00a0d\u3000e", "a b c d e"),
        ("  \x0b ", ""),
        ("", ""),
    ],
)
def test_collapse_whitespace(text: str, expected: str) -> None:
    assert tweets.collapse_whitespace(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<user> hi", "xxuser hi"),
        ("<USER>", "xxuser"),
        ("@some_body1: hi", "xxuser: hi"),
        (".@a (@b)", ".xxuser (xxuser)"),
        ("me@example.org", "me@example.org"),
        ("meet @ noon", "meet @ noon"),
        ("user <url>", "user <url>"),
    ],
)
def test_mask_users(text: str, expected: str) -> None:
    assert tweets.mask_users(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<url>", "xxurl"),
        ("see http://a.b/c?d=e#f.", "see xxurl."),
        ("(https://a.b/c)!", "(xxurl)!"),
        ("HTTP://A.B", "xxurl"),
        ("www.a.b, ok", "xxurl, ok"),
        ("http://a.b http://c.d", "xxurl xxurl"),
        ("tinyurl.com/x1", "xxurl"),
        ("home.now", "home.now"),
        ("and/or w/e", "and/or w/e"),
        ("http: //x", "http: //x"),
    ],
)
def test_mask_links(text: str, expected: str) -> None:
    assert tweets.mask_links(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("#fail#win", "# fail# win"), ("# 1", "# 1"), ("#", "#"), ("c# ##a", "c# ## a")]
)
def test_space_hashtags(text: str, expected: str) -> None:
    assert tweets.space_hashtags(text) == expected


EMOTICONS = {
    "smile": [
        ":)",
        ":-)",
        ";)",
        ";-)",
        "=)",
        ":D",
        "=D",
        ":P",
        ":-p",
        ":]",
        ":}",
        ":')",
        ":)))",
        "(:",
        "(;",
        "(=",
        "[=",
    ],
    "frown": [
        ":(",
        ":-(",
        "=(",
        ":[",
        ":{",
        ":'(",
        ";'(",
        ":/",
        "=/",
        ":\\",
        ":-\\",
        ":((",
        ")=",
        ")':",
        "D:",
    ],
    "neutral": [":|", ":-|", "=|", "|:", ";|", ":'|"],
    "heart": ["<3", "&lt;3", "<333"],
}


@pytest.mark.parametrize(
    ("name", "emoticon"), [(name, sign) for name, signs in EMOTICONS.items() for sign in signs]
)
def test_name_emoticons(name: str, emoticon: str) -> None:
    assert tweets.name_emoticons(emoticon) == f"xxemot{name}"
    assert tweets.name_emoticons(f"so {emoticon} there") == f"so xxemot{name} there"


@pytest.mark.parametrize(
    "text",
    [
        "http://x.y",
        "at 10:30",
        "note: (see)",
        "&quot;)",
        "&amp;)",
        "(hello): he",
        ":Pat",
        "ID:",
        "a:b",
        "<30",
        "3;4",
    ],
)
def test_what_is_no_emoticon(text: str) -> None:
    assert tweets.name_emoticons(text) == text


def test_emoticons_are_set_apart() -> None:
    assert tweets.name_emoticons("hi:)bye  :(") == "hi xxemotsmile bye xxemotfrown"


def test_presets(spelling: SpellingCorrector) -> None:
    text = " Teh  CTA @bob said helo: www.x.y/z. "

    assert TweetPreprocessor("none").clean(text) == text
    assert TweetPreprocessor("light").clean(text) == "Teh CTA @USER said helo: HTTPURL."
    assert TweetPreprocessor("paper", spelling).clean(text) == "The CAT xxuser sat hello: xxurl."


def test_steps_run_in_their_order(spelling: SpellingCorrector) -> None:
    assert TweetPreprocessor(["lowercase", "users"]).clean("@A B") == "xxuser b"
    assert TweetPreprocessor(["bertweet_users", "lowercase"]).clean("@A B") == "@user b"
    public_code = TweetPreprocessor([*PRESETS["paper"], "hashtags", "lowercase", "emoticons"], spelling)
    assert public_code.clean("<user> Teh #Cta :)") == "xxuser the # cta xxemotsmile"


def test_without_the_spelling_step_no_dictionary_is_read() -> None:
    assert TweetPreprocessor(["users"]).spelling is None
    assert TweetPreprocessor("light").spelling is None


def test_default_spelling_is_english() -> None:
    assert TweetPreprocessor("paper").clean("teh  freind") == "the friend"


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40) | st.text(alphabet="@#:;=()<3hwt.p/ab &\x85\u2028", max_size=40))
def test_any_text_is_taken_by_every_step(spelling: SpellingCorrector, text: str) -> None:
    for steps in [*([step] for step in STEPS), [SPELLING], [*STEPS, SPELLING]]:
        preprocessor = TweetPreprocessor(steps, spelling)
        assert isinstance(preprocessor.clean(text), str)
    assert tweets.collapse_whitespace(text) == tweets.collapse_whitespace(tweets.collapse_whitespace(text))


@pytest.mark.parametrize("unit", ["a", "a.", "a-", "@a", "http:", ":", "(", "'", "a'", "#", "&", " ", "www."])
def test_long_texts_take_linear_time(spelling: SpellingCorrector, unit: str) -> None:
    text = unit * (300_000 // len(unit))

    for steps in [*([step] for step in STEPS), [SPELLING]]:
        TweetPreprocessor(steps, spelling).clean(text)


def test_on_a_data_set(spelling: SpellingCorrector) -> None:
    data = datasets.Dataset.from_dict(
        {"text": ["Teh  cta", "@a", " "], "other": ["Teh  cta"] * 3, "label": [0, 1, 0]}
    )

    cleaned = data.map(TweetPreprocessor("paper", spelling), batched=True, batch_size=2)

    assert cleaned["text"][:] == ["The cat", "xxuser", ""]
    assert cleaned["other"][:] == data["other"][:]
    assert cleaned["label"][:] == [0, 1, 0]
    assert empty_rows(cleaned["text"]) == [2]


def test_several_columns() -> None:
    preprocessor = TweetPreprocessor(["users"], text_columns=("first", "second"))

    assert preprocessor({"first": ["@a"], "second": ["@b c"], "label": [0]}) == {
        "first": ["xxuser"],
        "second": ["xxuser c"],
    }


def test_workers_give_the_same(spelling: SpellingCorrector) -> None:
    data = datasets.Dataset.from_dict({"text": ["Teh  cta", "helo @a", "sta", "teh"]})

    cleaned = data.map(TweetPreprocessor("paper", spelling), batched=True, num_proc=2)

    assert cleaned["text"][:] == ["The cat", "hello xxuser", "sat", "the"]


def test_pickle(spelling: SpellingCorrector) -> None:
    copy = pickle.loads(pickle.dumps(TweetPreprocessor("paper", spelling)))

    assert copy.clean("@a Teh") == "xxuser The"


def test_fingerprint_is_the_same_in_every_process(tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_text('{"the": 9, "cat": 5}', encoding="utf-8")
    program = (
        "import sys\n"
        "from datasets.fingerprint import Hasher\n"
        "from hf_layerfusion.data.spelling import SpellingCorrector\n"
        "from hf_layerfusion.data.tweets import TweetPreprocessor\n"
        "print(Hasher.hash(TweetPreprocessor('paper', SpellingCorrector(dictionary=sys.argv[1]))))\n"
    )
    preprocessor = TweetPreprocessor("paper", SpellingCorrector(dictionary=path))
    preprocessor.clean("teh ct and what else is remembered")

    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, str(path)]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout
    assert found.strip() == Hasher.hash(preprocessor)


def test_fingerprint_tells_settings_apart(spelling: SpellingCorrector) -> None:
    settings_ = [
        TweetPreprocessor("none"),
        TweetPreprocessor("light"),
        TweetPreprocessor("paper", spelling),
        TweetPreprocessor("paper"),
        TweetPreprocessor("none", text_columns=("tweet",)),
    ]

    assert len({Hasher.hash(preprocessor) for preprocessor in settings_}) == len(settings_)


def test_unknown_names() -> None:
    with pytest.raises(UserError, match=r"preprocessing must be one of none, light, paper, found 'heavy'"):
        TweetPreprocessor("heavy")
    with pytest.raises(
        UserError, match=r"must be one of users, .*, spelling, found usres; did you mean 'users'"
    ):
        TweetPreprocessor(["usres", "links"])


def test_bad_batches() -> None:
    with pytest.raises(UserError, match=r"'text' must be in the data\. Found tweet, label"):
        TweetPreprocessor("light")({"tweet": ["a"], "label": [0]})
    with pytest.raises(UserError, match=r"'text' must hold text in every row\. Found None"):
        TweetPreprocessor("none")({"text": ["a", None]})


def test_empty_rows() -> None:
    assert empty_rows(["a", "", " \u0085", "b"]) == [1, 2]
