"""Foreign embeddings in, an encoder's folder out, which is one like any other."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from hf_layerfusion import (
    BertForGRUFusionClassification,
    BertWithPoolingModule,
    import_embeddings,
    verify_saved,
)
from hf_layerfusion.__main__ import main
from hf_layerfusion.embeddings.word_tokenizers import static_tokenizer
from hf_layerfusion.errors import UserError
from tests.tiny_words import ELMO_FILES, WORDS, static_folder, write_glove


def vectors_of(folder: Path, text: str) -> torch.Tensor:
    batch = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    return AutoModel.from_pretrained(folder)(**batch).last_hidden_state[0]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_glove(tmp_path / "glove.txt", width=5)
    main(["import-embeddings", "--glove", str(tmp_path / "glove.txt"), "--output_dir", str(tmp_path / "out")])
    assert "--model_name_or_path" in capsys.readouterr().out
    rows = dict(line.split(" ", 1) for line in (tmp_path / "glove.txt").read_text().splitlines())
    expected = torch.tensor([[float(value) for value in rows[word].split()] for word in ("good", "day")])
    # Lower-cased, as the vocabulary is; unknown words are zeros.
    found = vectors_of(tmp_path / "out", "Good xylophone DAY")
    assert torch.equal(found[[0, 2]], expected)
    assert torch.equal(found[1], torch.zeros(5))
    assert verify_saved(tmp_path / "out").files


def test_capitals_are_kept_where_the_vocabulary_has_some(tmp_path: Path) -> None:
    (tmp_path / "g.txt").write_text("Turkey 1 2\nturkey 3 4\n")
    import_embeddings(tmp_path / "out", glove=tmp_path / "g.txt")
    assert vectors_of(tmp_path / "out", "turkey Turkey TURKEY").tolist() == [[3, 4], [1, 2], [0, 0]]


@pytest.mark.parametrize("unknown", ["mean", "random"])
def test_unknown_words(unknown: str, tmp_path: Path) -> None:
    folders = [static_folder(tmp_path / name, unknown=unknown) for name in "ab"]
    found = vectors_of(folders[0], "xylophone")[0]
    vectors = np.loadtxt(tmp_path / "a" / "glove.txt", usecols=range(1, 9), comments=None)
    if unknown == "mean":
        np.testing.assert_allclose(found, vectors.mean(axis=0), atol=1e-6)
    assert found.abs().sum() > 0
    assert torch.equal(vectors_of(folders[1], "xylophone")[0], found)  # the same every time


def test_words_that_are_called_like_special_ones_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "g.txt").write_text("[PAD] 1 2\na 3 4\n")
    import_embeddings(tmp_path / "out", glove=tmp_path / "g.txt")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == {"[PAD]": 0, "[UNK]": 1, "a": 2}


def test_tweets_are_split_into_the_words_of_glove() -> None:
    words = "do n't it 's ca we 'll ! ... :) # fun <user> 3.50 well-known".split()
    split = static_tokenizer(words, "tweet").tokenize
    expected = "do n't ! it 's ca n't we 'll ... :) # fun <user> 3.50 well-known".split()
    assert split("Don\u2019t! it's CAN'T we'll...:) #fun <user> 3.50 well-known") == expected
    assert static_tokenizer(["don't!", "a"], "whitespace").tokenize("Don't!\na") == ["don't!", "a"]


def test_pairs_stand_side_by_side(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(static_folder(tmp_path))
    found = tokenizer("good day", "bad night", truncation=True, max_length=3)
    assert list(found) == ["input_ids", "attention_mask"]
    assert tokenizer.convert_ids_to_tokens(found["input_ids"]) == ["good", "bad", "night"]


def test_frozen_unless_trained(tmp_path: Path) -> None:
    folder = static_folder(tmp_path)
    batch = AutoTokenizer.from_pretrained(folder)(["good day", "bad"], padding=True, return_tensors="pt")
    for options, trained in (({}, False), ({"encoder_config": {"train_embeddings": True}}, True)):
        model = BertForGRUFusionClassification.from_pretrained(folder, num_groups=1, **options)
        model.save_pretrained(tmp_path / "saved")
        for each in (model, AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")):
            table = each.get_input_embeddings().weight
            assert table.requires_grad == trained
            each.train()(**batch, labels=torch.tensor([0, 1])).loss.backward()
            assert (table.grad is not None) == trained
            if trained:
                assert not table.grad[0].any()  # padding


def test_pipeline_and_new_words(tmp_path: Path) -> None:
    folder = static_folder(tmp_path)
    model = BertForGRUFusionClassification.from_pretrained(folder, num_groups=1).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers = pipeline("text-classification", model=model, tokenizer=tokenizer)(["good day", "bad"])
    assert len(answers) == 2
    tokenizer.add_tokens(["xylophone"])
    model.resize_token_embeddings(len(tokenizer))
    assert model.get_input_embeddings().weight.shape == (len(WORDS) + 3, 8)
    assert not model.get_input_embeddings().weight.requires_grad


def test_first_and_last_word_cannot_stand_for_a_text(tmp_path: Path) -> None:
    folder = static_folder(tmp_path)
    model = BertWithPoolingModule.from_pretrained(folder)
    assert model.config.token_pooling == "mean"
    for tokens in ("cls", "last", "cls_mean", "last_mean"):
        with pytest.raises(
            ValueError, match=f"must not be '{tokens}' for 'static_embeddings', whose words see no"
        ):
            BertWithPoolingModule.from_pretrained(folder, token_pooling=tokens)


def test_a_single_format_to_train_needs_no_list(tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(static_folder(tmp_path, train_embeddings="glove"))
    assert all(weight.requires_grad for weight in model.parameters())


REFUSED = {
    "no such format": ({"sources": {"gluve": "x"}}, "found 'gluve'; did you mean 'glove'"),
    "no source": ({"sources": {}}, "embeddings must be given, found none"),
    "no file": ({"sources": {"glove": "missing.txt"}}, "--glove missing.txt: must be a file"),
    "too few files": ({"sources": {"elmo": ["a"]}}, "--elmo must name 2 of OPTIONS WEIGHTS, found 1"),
    "lookup": ({"lookup": "lower"}, "--lookup must be one of exact, fallback"),
    "tokenization": (
        {"tokenization": "twet"},
        "--tokenization must be one of whitespace, tweet.*did you mean 'tweet'",
    ),
    "unknown": ({"unknown": "nil"}, "--unknown must be one of zero, mean, random"),
    "max_words": ({"max_words": 0}, "--max_words must be 1 or more"),
    "bad_rows": ({"bad_rows": "ignore"}, "--bad_rows must be one of error, skip"),
    "words of ELMo": (
        {"sources": {"elmo": ELMO_FILES}, "max_words": 5, "tokenization": "tweet"},
        "--max_words is for vectors of words and excludes --elmo, found 5; leave it out",
    ),
    "unknown words of ELMo": (
        {"sources": {"elmo": ELMO_FILES}, "unknown": "mean"},
        "--unknown is for vectors of words and excludes --elmo, found mean",
    ),
    "a long name": (
        {"sources": {"glove": "x" * 5_000}},
        "^--glove x{100}…: cannot be read .File name too long",
    ),
    "a format to train": ({"train_embeddings": "gluve"}, "found 'gluve'; did you mean 'glove'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_options(case: str, tmp_path: Path) -> None:
    options, message = REFUSED[case]
    sources = options.pop("sources", None) or (
        {} if case == "no source" else {"glove": write_glove(tmp_path / "glove.txt")}
    )
    with pytest.raises(UserError, match=message):
        import_embeddings(tmp_path / "out", **sources, **options)
    assert not (tmp_path / "out").exists()


def test_nothing_is_left_of_a_file_that_is_refused_and_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "g.txt").write_text("a 1 2\na 1 2\n")
    with pytest.raises(UserError, match="line 2"):
        import_embeddings(tmp_path / "out", glove=tmp_path / "g.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["g.txt"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(UserError, match="must be a new or empty folder"):
        import_embeddings(tmp_path / "out", glove=write_glove(tmp_path / "h.txt"))
    assert (tmp_path / "out" / "mine").read_text() == "kept"


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_file_that_may_not_be_read_is_named_as_such(
    allowed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opened, open_file = write_glove(tmp_path / "glove.txt"), [], Path.open

    def refuse(self: Path, *args: Any, **options: Any) -> Any:
        opened.append(self)
        if len(opened) > allowed:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return open_file(self, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"--glove \S*glove\.txt: cannot be read \(Permission denied\)"):
        import_embeddings(tmp_path / "out", glove=path)


@pytest.mark.parametrize("name", ["glove", "vectors", "word2vec", "fasttext"])
def test_pickled_vectors_of_gensim_are_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "vectors.kv").write_bytes(pickle.dumps({"vectors": [1.0]}, protocol=4))
    with pytest.raises(UserError, match=r"gensim's KeyedVectors.*save_word2vec_format") as caught:
        import_embeddings(tmp_path / "out", **{name: tmp_path / "vectors.kv"})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
