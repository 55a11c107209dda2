import json
import logging
from pathlib import Path

import pytest
from datasets import Dataset

from hf_layerfusion.data.absa import count_absent_aspects
from hf_layerfusion.data.files import read_examples
from hf_layerfusion.errors import UserError

PAIR = {"text_columns": ("sentence", "aspect")}
SEMEVAL = """<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<sentences>
    <sentence id="2339">
        <text>I charge it at night &amp; skip the cord, good battery life.</text>
        <aspectTerms>
            <aspectTerm term="cord" polarity="neutral" from="33" to="37"/>
            <aspectTerm term="battery life" polarity="positive" from="44" to="56"/>
        </aspectTerms>
    </sentence>
    <sentence id="812">
        <text>I got it last week.</text>
    </sentence>
    <sentence id="1316">
        <aspectTerms>
            <aspectTerm term="caf\u00e9" polarity="conflict" from="4" to="8"/>
            <aspectTerm term="staff" polarity="negative" from="13" to="18"/>
        </aspectTerms>
        <aspectCategories><aspectCategory category="service" polarity="negative"/></aspectCategories>
        <text>The caf\u00e9: rude staff.</text>
    </sentence>
</sentences>
"""
ACL14 = "i like $T$ , $T$ !\nnokia lumia\n1\n$T$ is ok\nbritney\n0\r\nno $T$\nwii\n-1\n\n"


def write(path: Path, content: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(content.encode(encoding))
    return path


def refused(path: Path, pattern: str, **options) -> None:
    with pytest.raises(UserError, match=pattern) as caught:
        read_examples(path, **{**PAIR, **options})
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_semeval_gives_a_row_for_each_aspect(tmp_path, encoding):
    text = SEMEVAL if encoding != "utf-16" else SEMEVAL.replace("UTF-8", "UTF-16")
    examples = read_examples(write(tmp_path / "Laptops.XML", text, encoding), **PAIR)
    first = "I charge it at night & skip the cord, good battery life."
    assert examples[:] == {
        "sentence": [first, first, *["The caf\u00e9: rude staff."] * 2],
        "aspect": ["cord", "battery life", "caf\u00e9", "staff"],
        "label": ["neutral", "positive", "conflict", "negative"],
        "row": [6, 7, 15, 16],
        "id": ["0", "1", "2", "3"],
    }


def test_semeval_sentences_alone_and_their_own_ids(tmp_path):
    examples = read_examples(
        write(tmp_path / "a.xml", SEMEVAL), text_columns=("sentence",), id_column="id", label_column=None
    )
    assert set(examples.column_names) == {"sentence", "id", "row"}
    assert examples["id"][:] == ["2339", "2339", "1316", "1316"]


def test_semeval_without_polarities_is_for_prediction_only(tmp_path):
    text = SEMEVAL.replace(' polarity="', ' guess="')
    path = write(tmp_path / "test.xml", text)
    assert "label" not in read_examples(path, **PAIR, label_required=False).column_names
    assert len(read_examples(path, **PAIR, label_required=False)) == 4
    refused(path, "no column 'label'")


BOMB = '<!DOCTYPE s [<!ENTITY a "x"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>\n'
OUTSIDE = '<!DOCTYPE s SYSTEM "file:///etc/passwd">\n'
BROKEN_XML = {
    "empty": ("", "the file is empty"),
    "cut off": (SEMEVAL.partition(' polarity="positive"')[0], "line 7: not well-formed XML"),
    "no XML": ("sentence,aspect,label\n", "line 1: not well-formed XML"),
    "unescaped": (SEMEVAL.replace("&amp;", "&"), "line 4: not well-formed XML"),
    "entities": (SEMEVAL.replace("<sentences>", BOMB + "<sentences>"), "row 2: .*document type declaration"),
    "outside file": (
        SEMEVAL.replace("<sentences>", OUTSIDE + "<sentences>"),
        "row 2: .*document type declaration",
    ),
    "undefined entity": (SEMEVAL.replace("&amp;", "&bomb;"), "line 4: not well-formed XML"),
    "no encoding": (SEMEVAL.replace("UTF-8", "klingon"), "not well-formed XML|cannot be read"),
    "unknown polarity": (SEMEVAL.replace('"positive"', '"mixed"'), "row 7: polarity .*found 'mixed'"),
    "one without polarity": (SEMEVAL.replace(' polarity="neutral"', ""), "row 6: polarity .*found none"),
    "no term": (SEMEVAL.replace('term="cord"', ""), "row 6: .*no attribute 'term'"),
    "no text": (SEMEVAL.replace("text>", "words>"), "row 9: .*no <text>"),
    "no sentence": (SEMEVAL.replace("sentence id", "review id").replace("/sentence>", "/review>"), "outside"),
    "no aspects": ("<sentences></sentences>", "holds no <aspectTerm>"),
    "empty term": (SEMEVAL.replace('term="cord"', 'term=" "'), "row 6: .*'aspect' is empty"),
}


@pytest.mark.parametrize("case", BROKEN_XML)
def test_bad_xml_is_refused(tmp_path, case):
    content, pattern = BROKEN_XML[case]
    refused(write(tmp_path / "bad.xml", content), pattern)


def test_acl14_puts_the_target_into_its_sentence(tmp_path):
    assert read_examples(write(tmp_path / "train.raw", ACL14), **PAIR)[:] == {
        "sentence": ["i like nokia lumia , nokia lumia !", "britney is ok", "no wii"],
        "aspect": ["nokia lumia", "britney", "wii"],
        "label": ["positive", "neutral", "negative"],
        "row": [1, 4, 7],
        "id": ["0", "1", "2"],
    }


BROKEN_RAW = {
    "empty": ("", "the file is empty"),
    "a line short": ("a $T$\nb\n1\nc $T$\nd\n", "row 4: the last example has 2 of its three lines"),
    "a line lost": ("a $T$\n1\nc $T$\nd\n0\n", "row 3: polarity must be one of -1, 0, 1, found 'c .T.'"),
    "no target": ("a b\nb\n1\n", r"row 1: the sentence has no \$T\$"),
    "unknown polarity": ("a $T$\nb\n1\nc $T$\nd\n2\n", "row 6: polarity must be one of -1, 0, 1, found '2'"),
    "blank target": ("a $T$\n\n1\n", "row 1: .*'aspect' is empty"),
}


@pytest.mark.parametrize("case", BROKEN_RAW)
def test_bad_raw_files_are_refused(tmp_path, case):
    content, pattern = BROKEN_RAW[case]
    refused(write(tmp_path / "bad.raw", content), pattern)


def test_other_columns_than_the_format_has_are_refused(tmp_path):
    refused(write(tmp_path / "a.raw", ACL14), "no column 'text'", text_columns=("text",))


def test_aspects_that_do_not_stand_in_their_sentence_are_counted():
    dataset = Dataset.from_dict(
        {"s": ["My Battery died", "my cord", "none"], "a": ["battery", "cords", "one"]}
    )
    assert count_absent_aspects(dataset, "s", "a") == 1


SNLI = [
    {"gold_label": "neutral", "sentence1": "A man.", "sentence2": "He sleeps.", "pairID": "1#0", "captionID": "1"},
    {"gold_label": "-", "sentence1": "A man.", "sentence2": "Nobody.", "pairID": "1#1", "captionID": "1"},
    {"gold_label": "entailment", "sentence1": "A dog.", "sentence2": "An animal.", "pairID": "2#0", "captionID": "2"},
]  # fmt: skip
SENTENCES = {"text_columns": ("sentence1", "sentence2")}


@pytest.mark.parametrize("label_column", ["label", "gold_label"])
def test_snli_is_known_by_its_fields_and_undecided_pairs_are_left_out(tmp_path, caplog, label_column):
    path = write(tmp_path / "snli.jsonl", "".join(json.dumps(row) + "\n" for row in SNLI))
    with caplog.at_level(logging.WARNING):
        examples = read_examples(path, **SENTENCES, label_column=label_column, id_column="pairID")
    assert examples[:] == {
        "sentence1": ["A man.", "A dog."],
        "sentence2": ["He sleeps.", "An animal."],
        "label": ["neutral", "entailment"],
        "id": ["1#0", "2#0"],
        "row": [1, 3],
    }
    assert "snli.jsonl: 1 pairs without a label that annotators agree on left out" in caplog.text


def test_a_dash_is_a_label_like_others_where_the_file_is_not_snli_s(tmp_path):
    rows = [{"sentence1": "a", "sentence2": "b", "label": label} for label in "-+"]
    path = write(tmp_path / "signs.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert read_examples(path, **SENTENCES)["label"][:] == ["-", "+"]
    path = write(tmp_path / "both.jsonl", "".join(json.dumps({**row, "label": "-"}) + "\n" for row in SNLI))
    assert read_examples(path, **SENTENCES)["label"][:] == ["-"] * 3
