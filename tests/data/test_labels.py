import math

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_layerfusion.data.files import read_competition, read_examples
from hf_layerfusion.data.label_names import raw_labels, without_label
from hf_layerfusion.data.labels import LabelSchema
from hf_layerfusion.errors import UserError

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


def labelled(labels: list, first_row: int = 2, **features) -> Dataset:
    """One row for each label; `row` counts as in a csv file."""
    rows = list(range(first_row, first_row + len(labels)))
    columns = {"text": ["x"] * len(labels), "label": labels, "row": rows}
    if features:
        return Dataset.from_dict(columns, Features(text=Value("string"), row=Value("int64"), **features))
    return Dataset.from_dict(columns)


def test_minus_one_of_named_classes_is_no_class() -> None:
    feature = ClassLabel(names=["zebra", "ant"])
    assert raw_labels(labelled([1, -1, 0], label=feature)) == ["ant", None, "zebra"]
    schema = LabelSchema(SINGLE, ("zebra", "ant"))
    refused("^F: row 3: None is not a class", schema.encode, labelled([1, -1], label=feature), "F")


def refused(pattern: str, function, *arguments) -> None:
    with pytest.raises(UserError, match=pattern) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "declared", "names", "encoded"),
    [
        ([3, -1, 3, -1], None, ("-1", "3"), [1, 0, 1, 0]),
        ([1, -1, 1, -1], ["negative", "positive"], ("negative", "positive"), [1, 0, 1, 0]),
        ([10, 9, 10, 9], None, ("9", "10"), [1, 0, 1, 0]),
        ([True, False, True, False], None, ("0", "1"), [1, 0, 1, 0]),
        (["b", "a", "b", "a"], None, ("a", "b"), [1, 0, 1, 0]),
        (["b", "a", "b", "a"], ["b", "a"], ("b", "a"), [0, 1, 0, 1]),
        (["10", "9", "10", "9"], None, ("10", "9"), [0, 1, 0, 1]),
    ],
)
def test_single_label(labels, declared, names, encoded):
    train = labelled(labels)
    schema = LabelSchema.infer(train, declared)
    assert schema.problem_type == SINGLE
    assert schema.names == names
    assert schema.num_labels == 2
    assert schema.id2label == {0: names[0], 1: names[1]}
    assert schema.label2id == {names[0]: 0, names[1]: 1}
    result = schema.encode(train, "train")
    assert result["label"][:] == encoded
    assert result.features["label"] == ClassLabel(names=list(names))
    assert result["text"][:] == train["text"][:]
    assert result["row"][:] == train["row"][:]


@pytest.mark.parametrize(
    ("declared", "names"), [(None, ("zebra", "ant")), (["ant", "zebra"], ("ant", "zebra"))]
)
def test_class_label_column_gives_names_and_order(declared, names):
    train = labelled([0, 1, 1, 0], label=ClassLabel(names=["zebra", "ant"]))
    schema = LabelSchema.infer(train, declared)
    assert schema.names == names
    encoded = schema.encode(train, "train")["label"][:]
    assert [names[number] for number in encoded] == ["zebra", "ant", "ant", "zebra"]


def test_encoding_twice_changes_nothing():
    """Values 1 and 2 get the ids 0 and 1: taken for values once more, ids would silently shift."""
    train = labelled([1, 2, 2, 1])
    schema = LabelSchema.infer(train)
    once = schema.encode(train, "train")
    assert schema.encode(once, "train")["label"][:] == once["label"][:] == [0, 1, 1, 0]


def test_other_splits_may_give_value_or_name():
    schema = LabelSchema.infer(labelled([-1, 1, 1, -1]), ["negative", "positive"])
    assert schema.encode(labelled([1, -1]), "dev")["label"][:] == [1, 0]
    assert schema.encode(labelled(["1", "-1"]), "dev")["label"][:] == [1, 0]
    assert schema.encode(labelled(["positive", "negative"]), "dev")["label"][:] == [1, 0]
    assert schema.encode(labelled([1.0, -1.0]), "dev")["label"][:] == [1, 0]


def test_raw_value_wins_over_a_name_that_looks_like_another():
    schema = LabelSchema.infer(labelled([0, 1, 1, 0]), ["1", "0"])
    assert schema.encode(labelled([0, 1]), "dev")["label"][:] == [0, 1]


def test_multi_label():
    train = labelled([["b", "a"], ["c"], []])
    schema = LabelSchema.infer(train)
    assert schema == LabelSchema(MULTI, ("a", "b", "c"))
    encoded = schema.encode(train, "train")
    assert encoded["label"][:] == [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert encoded.features["label"] == List(Value("float32"))
    numbers = LabelSchema.infer(labelled([[2], [0, 2]]), ["none", "two"])
    assert numbers.encode(labelled([[2], [0]]), "dev")["label"][:] == [[0.0, 1.0], [1.0, 0.0]]
    assert numbers.encode(labelled([["two"], ["0"]]), "dev")["label"][:] == [[0.0, 1.0], [1.0, 0.0]]


def test_multi_label_of_class_labels():
    train = labelled([[1], [0, 1]], label=List(ClassLabel(names=["zebra", "ant"])))
    schema = LabelSchema.infer(train)
    assert schema.names == ("zebra", "ant")
    assert schema.encode(train, "train")["label"][:] == [[0.0, 1.0], [1.0, 1.0]]


def test_regression():
    train = labelled([0.5, 2.0])
    schema = LabelSchema.infer(train)
    assert schema == LabelSchema(REGRESSION, ("score",))
    assert schema.num_labels == 1
    encoded = schema.encode(train, "train")
    assert encoded["label"][:] == [0.5, 2.0]
    assert encoded.features["label"] == Value("float32")
    assert schema.encode(labelled([3, 4]), "dev")["label"][:] == [3.0, 4.0]
    assert schema.encode(encoded, "train")["label"][:] == [0.5, 2.0]
    assert LabelSchema.infer(train, ["similarity"]).names == ("similarity",)


def test_problem_type_overrides_the_inference():
    assert LabelSchema.infer(labelled([1, 2]), problem_type=REGRESSION).num_labels == 1
    schema = LabelSchema.infer(labelled([1.0, 2.0, 1.0, 2.0]), problem_type=SINGLE)
    assert schema.names == ("1", "2")
    assert schema.encode(labelled([2.0]), "dev")["label"][:] == [1]


def test_without_labels_nothing_changes():
    dataset = Dataset.from_dict({"text": ["x"]})
    assert LabelSchema(SINGLE, ("a", "b")).encode(dataset, "test") is dataset


@pytest.mark.parametrize(
    ("labels", "declared", "problem_type", "pattern"),
    [
        ([0, 0], None, None, "^F: the only class is 0, and a classifier needs two; add examples of another$"),
        (["a", "a"], None, None, "^F: the only class is 'a', and"),
        ([[], []], None, None, "^F: the only class is none, and"),
        ([0, 1, 0, 2, 2], None, None, "^F: row 3: the class 1 occurs only once; add another example of it$"),
        (["a", "a", "b"], None, None, "^F: row 4: the class 'b' occurs only once"),
        (
            [0, 1, 0, 1],
            ["a"],
            None,
            r"^F: 1 label names for 2 classes \('0', '1'\); give one name for each class",
        ),
        ([0, 1, 0, 1], ["a", "b", "c"], None, "^F: 3 label names for 2 classes"),
        ([0, 1, 0, 1], ["a", "a"], None, "^the label name 'a' is given twice; name every class differently$"),
        (
            ["a", "b", "b", "a"],
            ["a", "c"],
            None,
            "^F: row 3: the label 'b' is not among the declared 'a', 'c'",
        ),
        (
            ["a", "b", "b", "a"],
            ["a", "c", "b"],
            None,
            "^F: the class 'c' never occurs; .* declare only 'a', 'b'$",
        ),
        (
            [0.5, 1.0],
            ["a", "b"],
            None,
            "^a regression has one output, found 2 label names; give one name or none",
        ),
        (
            [0, 1, 0, 1],
            None,
            "classification",
            "^problem_type must be one of single_.*, found 'classification'; ",
        ),
        (
            ["a", "b"],
            None,
            REGRESSION,
            "^F: row 2: the label 'a' is not a finite number, which a regression needs",
        ),
        ([1.0, math.nan], None, None, "^F: row 3: the label nan is not a finite number"),
        ([1.0, math.inf], None, None, "^F: row 3: the label inf is not a finite number"),
        (
            [1.0, 1.5],
            None,
            SINGLE,
            "^F: row 3: 1.5 is not a class; write a name or an integer, or train a regression",
        ),
        (
            [["a"], ["b"]],
            None,
            SINGLE,
            r"^F: row 2: the label \['a'\] is not one class; .* multi_label_class",
        ),
        (["a", "b"], None, MULTI, "^F: row 2: the label 'a' is not a list of classes; .* single_label_class"),
        ([["a"], ["b", "b"]], None, None, "^F: row 3: the class 'b' occurs twice in one label; list"),
        ([[0.0, 1.0], [0.0, 0.0]], None, None, "^F: row 3: the class 0 occurs twice .* not zeros and ones$"),
        ([[0.5]], None, None, "^F: row 2: 0.5 is not a class"),
    ],
)
def test_training_labels_that_are_refused(labels, declared, problem_type, pattern):
    refused(pattern, LabelSchema.infer, labelled(labels), declared, problem_type, "F")


def test_training_data_without_labels_is_refused():
    refused(
        "^F: has no labels; name their column$",
        LabelSchema.infer,
        Dataset.from_dict({"text": ["x"]}),
        None,
        None,
        "F",
    )


@pytest.mark.parametrize(
    ("schema", "labels", "pattern"),
    [
        (
            LabelSchema(SINGLE, ("a", "b")),
            ["a", "c"],
            "^F: row 3: the label 'c' is not among the known ones, 'a', 'b'; correct it",
        ),
        (
            LabelSchema(SINGLE, ("n", "p"), ("-1", "1")),
            [1, 0],
            "^F: row 3: the label '0' is not among .* '-1', '1';",
        ),
        (LabelSchema(SINGLE, ("0", "1")), [0.5], "^F: row 2: 0.5 is not a class"),
        (LabelSchema(SINGLE, ("0", "1")), [["0"]], "^F: row 2: .* is not one class"),
        (
            LabelSchema(MULTI, ("a", "b")),
            [["a"], ["c", "a"]],
            "^F: row 3: the label 'c' is not among the known",
        ),
        (LabelSchema(MULTI, ("a", "b")), ["a"], "^F: row 2: the label 'a' is not a list of classes"),
        (LabelSchema(REGRESSION, ("score",)), ["high"], "^F: row 2: the label 'high' is not a finite number"),
        (LabelSchema(REGRESSION, ("score",)), [1.0, -math.inf], "^F: row 3: the label -inf is not a finite"),
    ],
)
def test_labels_of_other_splits_that_are_refused(schema, labels, pattern):
    refused(pattern, schema.encode, labelled(labels), "F")


def test_long_lists_of_classes_are_cut():
    schema = LabelSchema(SINGLE, tuple(f"c{number}" for number in range(500)))
    refused(r"'c19', … \(500 in all\)", schema.encode, labelled(["x"]), "F")


def test_a_text_taken_for_a_label_does_not_fill_the_screen():
    with pytest.raises(UserError, match=r"row 2: the class 'x+[.]{3} occurs only once") as caught:
        LabelSchema.infer(labelled(["x" * 10_000, "y" * 10_000]))
    assert len(str(caught.value)) < 200


def test_rows_are_those_of_the_file_after_selecting(tmp_path):
    path = tmp_path / "dev.csv"
    path.write_text("text,label\nx,a\ny,b\nz,c\n")
    chosen = read_examples(path).select([2, 0])
    refused(r"dev\.csv: row 4: the label 'c'", LabelSchema(SINGLE, ("a", "b")).encode, chosen, str(path))


def test_competition_files(tmp_path):
    (tmp_path / "pos.txt").write_text("good\ngreat\n")
    (tmp_path / "neg.txt").write_text("bad\nawful\n")
    train = read_competition(tmp_path / "pos.txt", tmp_path / "neg.txt")
    schema = LabelSchema.infer(train)
    assert schema.names == ("negative", "positive")
    assert schema.encode(train, "train")["label"][:] == [1, 1, 0, 0]


# Names that the source of the data has for integers, and names that mean the same


def stored(path, feature, labels):
    features = Features({"text": Value("string"), "label": feature})
    Dataset.from_dict({"text": ["x"] * len(labels), "label": labels}, features).to_parquet(path)
    return path


@pytest.mark.parametrize(
    ("feature", "labels", "names"),
    [
        (ClassLabel(names=["zebra", "ant"]), [0, 1, 1, 0], ["zebra", "ant", "ant", "zebra"]),
        (ClassLabel(names=["zebra ", "ant", "zebra"]), [0, 1, 1, 2], ["zebra", "ant", "ant", "zebra"]),
        (List(ClassLabel(names=["zebra", "ant"])), [[1], [0, 1], []], [["ant"], ["zebra", "ant"], []]),
    ],
)
def test_parquet_keeps_the_names_of_class_labels(tmp_path, feature, labels, names):
    read = read_examples(stored(tmp_path / "a.parquet", feature, labels))
    assert raw_labels(read) == names
    schema = LabelSchema.infer(read)
    assert schema.names == ("zebra", "ant")
    encoded = schema.encode(read, "train")["label"][:]
    if isinstance(names[0], str):
        assert [schema.names[number] for number in encoded] == names
    else:
        assert encoded == [[float(name in row) for name in schema.names] for row in names]


def test_labels_of_parquet_that_are_not_given(tmp_path):
    path = stored(tmp_path / "a.parquet", ClassLabel(names=["a", "b"]), [-1, -1])
    assert "label" not in read_examples(path, label_required=False).column_names
    refused("row 1: the label is empty", read_examples, path)
    partly = stored(tmp_path / "b.parquet", ClassLabel(names=["a", "b"]), [1, -1])
    refused("row 2: the label is empty", read_examples, partly)


@pytest.mark.parametrize(
    ("feature", "labels"),
    [(ClassLabel(names=["a", "b"]), [0, 2]), (List(ClassLabel(names=["a", "b"])), [[0], [-1]])],
)
def test_numbers_without_a_name_are_refused(tmp_path, feature, labels):
    path = tmp_path / "a.parquet"
    schema = Features({"text": Value("string"), "label": feature}).arrow_schema
    table = pa.table({"text": ["x", "y"], "label": labels}, schema=schema)
    pq.write_table(table, path)
    refused("row 2: the label (2|-1) has no name among 'a', 'b'; correct it", read_examples, path)


def test_a_description_of_columns_that_is_broken_is_refused(tmp_path):
    table = pa.table({"text": ["x"], "label": [0]}).replace_schema_metadata({"huggingface": "{"})
    pq.write_table(table, tmp_path / "a.parquet")
    refused("metadata 'huggingface'", read_examples, tmp_path / "a.parquet")


def test_dictionary_columns_are_read_as_their_values(tmp_path):
    words = pa.array(["b", "a", "b"]).dictionary_encode()
    lists = pa.ListArray.from_arrays([0, 1, 3, 3], words)
    for labels, expected in ((words, ["b", "a", "b"]), (lists, [["b"], ["a", "b"], []])):
        pq.write_table(pa.table({"text": words, "label": labels}), tmp_path / "a.parquet")
        read = read_examples(tmp_path / "a.parquet")
        assert (read["text"][:], read["label"][:]) == (["b", "a", "b"], expected)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_blanks_around_a_label_make_no_class_of_their_own(tmp_path, suffix, caplog):
    path = tmp_path / f"a.{suffix}"
    frame = pd.DataFrame({"text": list("abcd"), "label": ["no ", "yes", "no", " yes\t"]})
    if suffix in ("csv", "tsv"):
        frame.to_csv(path, sep="," if suffix == "csv" else "\t", index=False)
    elif suffix == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=suffix == "jsonl")
    read = read_examples(path)
    assert read["label"][:] == ["no", "yes", "no", "yes"]
    assert LabelSchema.infer(read, ["no ", "yes"]).names == ("no", "yes")
    assert not caplog.records


def test_blanks_in_lists_of_labels_and_around_numbers(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x", "label": ["a ", "b"]}\n{"text": "y", "label": ["a"]}\n')
    assert read_examples(path)["label"][:] == [["a", "b"], ["a"]]
    (tmp_path / "a.csv").write_text("text,label\nx,0 \ny, 1\n")
    assert read_examples(tmp_path / "a.csv")["label"][:] == [0, 1]


def test_names_that_differ_in_capitals_or_blanks_alone_are_warned_about(caplog):
    LabelSchema.infer(labelled(["Not funny", "not  funny", "funny"] * 2), where="F")
    assert caplog.messages == [
        "F: the classes 'Not funny', 'not  funny' differ in capitals or blanks alone and are trained as different "
        "classes; give them one name if they are one"
    ]


def test_a_model_trained_on_names_with_blanks_still_reads_them():
    schema = LabelSchema(SINGLE, ("negative ", "positive"))
    assert schema.encode(labelled(["positive", "negative", "negative "]), "F")["label"][:] == [1, 0, 0]


@pytest.mark.parametrize(
    ("labels", "names", "kept"),
    [
        (["a", "conflict", "Conflict ", "b"], None, ["a", "b"]),
        ([0, 1, 2, 0], {0: "a", 1: "CONFLICT", 2: "b"}, [0, 2, 0]),
        ([0, 1, 2, 0], None, [0, 1, 2, 0]),
        ([["conflict"], ["a"]], None, [["conflict"], ["a"]]),
    ],
)
def test_rows_of_a_label_left_out(labels, names, kept):
    assert without_label(labelled(labels), "conflict", names)["label"][:] == kept


def test_a_class_label_left_out_loses_its_name():
    train = labelled([0, 1, 2, 1], label=ClassLabel(names=["Conflict", "b", "a"]))
    rest = without_label(train, "conflict")
    assert rest.features["label"] == ClassLabel(names=["b", "a"])
    assert (rest["label"][:], rest["row"][:]) == ([0, 1, 0], [3, 4, 5])
    assert LabelSchema.infer(
        without_label(labelled([0, 1, 0, 1], label=ClassLabel(names=["b", "a", "conflict"])), "conflict")
    ).names == ("b", "a")


@pytest.mark.parametrize(
    ("values", "labels", "encoded"),
    [
        (("1", "2"), [1, 2], [0, 1]),  # the raw labels of training
        ((), [1, 0], [1, 0]),  # a model that knows none: numbers of the classes
        ((), ["p", "n"], [1, 0]),
    ],
)
def test_integers_for_a_model_with_names(values, labels, encoded, caplog):
    dataset = labelled(labels)
    schema = LabelSchema(SINGLE, ("n", "p"), values).with_numeric_labels(dataset, "F")
    assert schema.encode(dataset, "F")["label"][:] == encoded
    assert caplog.messages == (
        ["F: labels are read as ids of the classes 'n', 'p'"] if labels == [1, 0] else []
    )


def test_integers_beyond_the_classes_are_refused():
    schema = LabelSchema(SINGLE, ("n", "p")).with_numeric_labels(labelled([1, 2]), "F")
    refused("row 2: the label '1' is not among the known ones", schema.encode, labelled([1, 2]), "F")
