import ast
import dataclasses
import json
import math
import re
import unicodedata
from enum import Enum

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard import metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from hf_layerfusion.hub.card import build_card
from hf_layerfusion.hub.card_facts import CardFacts
from hf_layerfusion.hub.citations import CITATIONS
from hf_layerfusion.hub.environment import library_environment
from hf_layerfusion.hub.markdown import escape_markdown, markdown_table
from hf_layerfusion.hub.usage import EXAMPLES
from tests.hub.small import Elements, facts, headings, render

HOSTILE = [
    "a\n---\nlicense: evil\n---\nb",
    "{{ 7 * 7 }}{% raw %}{{ facts.__class__.__mro__ }}",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    'it\'s "quoted" \\ & `code` ``` ~~~ *b* __u__ $x$ # h | cell',
    "![x](http://evil/a.png) [x](javascript:alert(1)) <http://evil> [r]: /x",
    "- item\r\n# heading\u2028- item\u0085> quote",
    "!!python/object/apply:os.system ['id']",
    "\x00\x07\ud800\u202ereversed",
    "1. one",
    "1) one",
    "<!-- gone",
    "<script src=x ",
    "=====",
    "---",
]


def test_metadata_survive_file_and_hub_classes(tmp_path):
    card = build_card(facts())
    card.save(tmp_path / "README.md")
    metadata = metadata_load(tmp_path / "README.md")
    assert {key: value for key, value in metadata.items() if key != "model-index"} == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "base_model": "org/encoder",
        "license": "apache-2.0",
        "language": ["en"],
        "datasets": ["org/tweets"],
        "metrics": ["accuracy", "f1"],
        "widget": [{"text": text} for text in EXAMPLES],
        "tags": ["hf_layerfusion", "layer-fusion", "grubert"],
    }
    assert ModelCardData(**metadata).to_dict() == metadata
    assert str(ModelCard.load(tmp_path / "README.md")) == str(card)

    name, results = model_index_to_eval_results(metadata["model-index"])
    assert name == "grubert-share-3"
    found = [(r.dataset_split, r.metric_type, r.metric_name, r.metric_value) for r in results]
    assert found == [
        ("test", "accuracy", "Accuracy", 0.8),
        ("validation", "accuracy", "Accuracy", 0.81236),
        ("validation", "f1", "Macro F1", 0.8),
    ]
    assert {(r.task_type, r.dataset_type, r.dataset_name) for r in results} == {
        ("text-classification", "org/tweets", "Tweets")
    }


def test_page_says_what_was_measured():
    card = build_card(facts(warning="The numbers measure nothing."))
    page = Elements(render(card))
    for said in (
        "The numbers measure nothing.",
        "Parameters: 23,456,789",
        "@name becomes xxuser",
        "train 7,000, validation 3,000",
        "Noisy labels",
        "1e-05",
        "0.9, 0.999",
        "Seeds: 0, 1.",
        "1 h 2 min",
        "0.8124",
        "English only",
        "python 3.11.7",
        "2020.aacl-srw.19",
    ):
        assert said in page.text
    assert "plots/training%20curves.png" in page.hrefs
    assert page.counts["table"] == 4
    assert headings(card) == [
        "grubert-share-3",
        "How to use",
        "Results",
        "Seeds",
        "Model",
        "Data",
        "Training",
        "Limits",
        "Citation",
    ]


def test_what_is_not_known_gets_no_section():
    card = build_card(CardFacts("m", "e", methods=[]))
    assert headings(card) == ["m", "How to use", "Model"]
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["hf_layerfusion", "layer-fusion"],
    }
    assert not re.search(r"None|nan|needed|TODO|\{|\}", card.text)


def test_same_facts_same_card():
    assert str(build_card(facts())) == str(build_card(facts()))


@pytest.mark.parametrize("pair", [False, True])
def test_code_of_the_card_is_python(pair):
    card = build_card(facts(text_pair=pair, model_path='a"b\nimport os'))
    blocks = re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        calls = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Constant)]
        assert 'a"b import os' in [node.value for node in calls]
    assert "import hf_layerfusion" in blocks[0]
    assert "trust_remote_code=True" in blocks[1]
    assert ("text_pair" in blocks[0]) is pair


def test_plain_model_needs_no_package():
    card = build_card(facts(needs_package=False))
    assert "trust_remote_code" not in card.text
    assert "import hf_layerfusion" not in card.text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_strings_change_neither_metadata_nor_structure(text, tmp_path):
    """Every user-given string hostile: the page has the elements of the tame card, and shows the text."""
    tame, hostile = (
        facts(
            model_name=string,
            encoder=string,
            model_path=string,
            warning=string,
            architecture=[string],
            language=["en"],
            dataset_name=string,
            dataset_description=string,
            dataset_defects=[string],
            num_examples={string: 3},
            preparation=[string],
            metrics={string: {string: 0.5}},
            labels=[string],
            recipe={string: string},
            epochs=[{string: 1.0}],
            environment={string: string},
            figures=[(string, "a.png")],
            limits=[string],
            sections=[(string, "body")],
        )
        for string in ("tame", text)
    )
    tame_page, card = Elements(render(build_card(tame))), build_card(hostile)
    page = Elements(render(card))
    assert page.counts == tame_page.counts
    assert page.hrefs == tame_page.hrefs
    assert "49" not in card.text

    card.save(tmp_path / "README.md")
    metadata = metadata_load(tmp_path / "README.md")
    assert set(metadata) == set(build_card(tame).data.to_dict())
    assert metadata["license"] == "apache-2.0"
    name, (result,) = model_index_to_eval_results(metadata["model-index"])
    assert name == result.dataset_name == result.dataset_split == result.metric_type
    assert "\n" not in name
    assert ModelCard.load(tmp_path / "README.md").text == card.text


# What turns the direction of text, by Unicode's own classes.
TURNS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
SIGNS = st.sampled_from([*"\\`*_[](){}<>#+-=.!|~&$:;/\"' \t\n1a", "&lt;", "---", "](", "``", "é", "\x85"])


@settings(max_examples=300, deadline=None)
@example("=====")
@example("\xad")
@given(st.lists(SIGNS, max_size=12).map("".join) | st.text(max_size=30))
@pytest.mark.parametrize("frame", ["{}", "- {}", "> **Warning.** {}", "a {} b", "above\n{}"])
def test_escaped_text_renders_as_itself(frame, text):
    def page(string):
        renderer = MarkdownIt("gfm-like", {"html": True, "linkify": False})
        return Elements(renderer.render(frame.format(string)))

    escaped = page(escape_markdown(text))
    kept = "".join(letter for letter in text if unicodedata.category(letter) not in ("Cc", "Cs"))
    kept = "".join(letter for letter in kept if unicodedata.bidirectional(letter) not in TURNS)
    empty = page("x" if kept.strip() else "")
    assert escaped.counts == empty.counts
    if not any(unicodedata.category(letter) in ("Cc", "Cs", "Cf") for letter in text):
        around = frame.replace("- ", "").replace("> **Warning.**", "Warning.").format(text)
        assert escaped.text.split() == around.split()


def test_escaping_leaves_readable_text_alone():
    for text in ("learning_rate", "it's 3.5 (or so), #1", "don't: 2.13.0+cpu", "-1", "@user 😀 é"):
        assert escape_markdown(text) == text


def test_values_of_numpy_and_nan_become_plain(tmp_path):
    class Strategy(str, Enum):
        EPOCH = "epoch"

    card_facts = facts(
        parameters=np.int64(5),
        metrics={
            "test": {
                "accuracy": np.float32(0.5),
                "loss": np.float64("nan"),
                "mse": math.inf,
                "mae": np.int64(2),
            }
        },
        epochs=[{"epoch": np.float64(1), "loss": float("nan")}],
        recipe={"strategy": Strategy.EPOCH, "seed": np.int32(3), "rates": np.array([1.0, 2.0])},
        training_seconds=np.float32(1.5),
    )
    assert card_facts.metrics == {"test": {"accuracy": 0.5, "mae": 2}}
    assert card_facts.epochs == [{"epoch": 1.0}]
    assert card_facts.recipe == {"strategy": "epoch", "seed": 3, "rates": [1.0, 2.0]}
    card = build_card(card_facts)
    assert "!!python" not in str(card)
    assert "nan" not in str(card).lower()
    results = yaml.safe_load(card.data.to_yaml())["model-index"][0]["results"]
    assert [metric["value"] for metric in results[0]["metrics"]] == [0.5, 2.0]


def test_json_round_trip():
    full = facts(parameters=np.int64(5), warning="é 😀", figures=[("a", "b.png")])
    again = CardFacts.from_json(full.to_json())
    assert again == full
    assert str(build_card(again)) == str(build_card(full))
    assert json.loads(full.to_json())["parameters"] == 5
    assert set(json.loads(full.to_json())) == {entry.name for entry in dataclasses.fields(CardFacts)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "must be a JSON object"),
        ('{"model_name": "m", "encoder": "e", "template": "x"}', "unknown field 'template'"),
        ('{"encoder": "e"}', "lack the field 'model_name'"),
        ("{", "Expecting"),
    ],
)
def test_json_that_is_no_card_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        CardFacts.from_json(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_name": " \n"}, "model_name"),
        ({"base_model": "/home/somebody/encoder"}, "base_model must be a Hub id"),
        ({"base_model": "a/b/c"}, "base_model must be a Hub id"),
        ({"dataset_id": "my file.csv"}, "dataset_id must be a Hub id"),
        ({"methods": ["bert"]}, "methods must be among"),
        ({"metrics": {"test": {"accuracy": "0.9"}}}, "'accuracy' of 'test' must be a number"),
        ({"metrics": {"test": {"accuracy": True}}}, "must be a number"),
        ({"figures": [("x", "../secret.png")]}, "relative to the card"),
        ({"figures": [("x", "/etc/passwd")]}, "relative to the card"),
        ({"figures": [("x", "a\nb.png")]}, "printable"),
        ({"base_model": ["org/one", "no id"]}, "base_model must be a Hub id"),
        ({"task_dataset_ids": {"a": "no id"}}, "task_dataset_ids must be a Hub id"),
    ],
)
def test_wrong_facts_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        facts(**changes)


def test_no_folder_of_this_machine_in_the_card(tmp_path):
    card = build_card(
        facts(
            model_path=str(tmp_path / "out"),
            recipe={"train_file": str(tmp_path / "t.csv"), "win": "C:\\me\\t.csv"},
        )
    )
    assert str(tmp_path.parent) not in str(card)
    assert "\\me" not in str(card)
    assert 'model="out"' in card.text
    assert "| train_file | t.csv |" in card.text


def test_unknown_licence_is_left_out():
    for license_id in (None, "Apache License\nevil: 1"):
        assert "license" not in build_card(facts(base_model_license=license_id)).data.to_dict()


def test_table_escapes_and_aligns():
    table = markdown_table(["name", "value"], [["a|b", 0.25], ["*c*", 1e-6]])
    assert table.splitlines() == [
        "| name | value |",
        "| --- | ---: |",
        "| a\\|b | 0.25 |",
        "| \\*c\\* | 1e-06 |",
    ]


def test_environment_names_the_stack():
    versions = library_environment()
    assert {"python", "torch", "transformers", "huggingface_hub"} <= set(versions)
    assert all(re.match(r"\d+\.\d+", version) for version in versions.values())


def test_citations_are_balanced_bibtex():
    for entry in CITATIONS.values():
        assert entry.startswith("@")
        assert entry.count("{") == entry.count("}")
        assert "```" not in entry


def test_a_card_of_several_tasks_tells_them_apart():
    """Each task is a data set of its own in the metadata, a row in the table, and opened by its name."""
    metrics = {"test": {"sst5_accuracy": 0.5, "sts_pearsonr": 0.75, "sts_mse": 0.25, "mean": 0.625}}
    card = build_card(facts(tasks={"sst5": 1, "sts": 2}, metrics=metrics, num_examples={"test": 20}))
    results = {(r.dataset_name, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert results[("sst5", "accuracy")] == 0.5
    assert results[("sts", "pearsonr")] == 0.75
    assert not any(key[1] == "mean" for key in results)
    rows = {
        tuple(cell.strip() for cell in line.split("|")[1:3]): line
        for line in card.text.splitlines()
        if "|" in line
    }
    assert {("test", "sst5"), ("test", "sts"), ("test", "all")} <= rows.keys()
    assert 'model_kwargs={"task_name": "sts"}' in card.text


def test_of_tasks_whose_names_begin_alike_each_has_its_own_figures():
    metrics = {"test": {"mood_accuracy": 0.25, "mood_two_accuracy": 0.75}}
    for names in (("mood", "mood_two"), ("mood_two", "mood")):
        card = build_card(facts(tasks=dict.fromkeys(names, 1), metrics=metrics))
        found = {(r.dataset_name, r.metric_type): r.metric_value for r in card.data.eval_results}
        assert found == {("mood", "accuracy"): 0.25, ("mood_two", "accuracy"): 0.75}


def test_each_task_has_its_own_data_set():
    card = build_card(
        facts(
            tasks={"one": 1, "two": 1},
            dataset_id=None,
            task_dataset_ids={"one": "org/one"},
            metrics={"test": {"one_accuracy": 0.5, "two_accuracy": 0.5}},
        )
    )
    assert card.data.datasets == ["org/one"]
    assert {r.dataset_name: r.dataset_type for r in card.data.eval_results} == {
        "org/one": "org/one",
        "two": "local",
    }


def test_means_are_shown_with_their_deviations_and_stand_alone_in_the_metadata():
    card = build_card(
        facts(
            seeds=[0, 1, 2],
            metrics={"test": {"accuracy": 0.75, "loss": 0.5}},
            deviations={"test": {"accuracy": 0.0125}},
        )
    )
    assert "| test |  | 0.7500 (0.0125) | 0.5000 |" in card.text
    assert "Mean over 3 seeds, with the standard deviation in brackets." in card.text
    assert "Training time: 1 h 2 min per run, averaged over the seeds." in card.text
    assert [r.metric_value for r in card.data.eval_results] == [0.75]


def test_energy_and_hardware_are_said_where_they_are_known():
    assert "energy" not in build_card(facts()).text and "Hardware" not in build_card(facts()).text
    card = build_card(facts(hardware="2 × A GPU", energy_kwh=0.125))
    assert "Measured energy: 0.125 kWh." in card.text
    assert "Hardware: 2 × A GPU." in card.text


def test_an_encoder_that_is_not_known_is_not_mentioned():
    assert "A model for text-classification, trained with" in build_card(CardFacts("m")).text
    card = build_card(CardFacts("m", "e"))
    assert "A model for text-classification on the encoder e, trained with" in card.text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"problem_type": "single_label_classification", "labels": ["bad", "so-so", "good"]},
            "A model that classifies texts as bad, so-so or good. It was trained on the encoder",
        ),
        (
            {"problem_type": "single_label_classification", "labels": ["a", "b"], "text_pair": True},
            "A model that classifies pairs of texts as a or b.",
        ),
        (
            {"problem_type": "multi_label_classification", "labels": ["joy", "fear"]},
            "A model that finds which of the labels joy and fear apply to texts.",
        ),
        ({"problem_type": "regression"}, "A model that predicts a number for texts."),
        ({"tasks": {"sst5": 1, "sts": 2}}, "A model that answers 2 tasks in one pass: sst5 and sts."),
        (
            {"problem_type": "single_label_classification", "labels": [str(n) for n in range(20)]},
            "A model that classifies texts as 0, 1, 2, 3 and so on, 20 in all.",
        ),
    ],
)
def test_the_first_sentence_says_what_the_model_does(changes, expected):
    assert expected in build_card(facts(**changes)).text


def test_the_first_screen_says_how_good_the_model_is():
    card = build_card(facts(num_examples={"test": 3000}))
    assert "**On 3,000 test texts: accuracy 0.8000.**" in card.text
    assert card.text.index("**On 3,000") < card.text.index("## How to use") < card.text.index("## Results")
    card = build_card(facts(metrics={"validation": {"loss": 0.4, "accuracy": 0.5, "f1_macro": 0.25}}))
    assert "**On 3,000 validation texts: accuracy 0.5000, macro F1 0.2500.**" in card.text
    metrics = {"test": {"a_mse": 0.4, "a_pearsonr": 0.5, "b_loss": 1.0, "b_accuracy": 0.75, "mean": 0.6}}
    card = build_card(facts(tasks={"a": 2, "b": 1}, metrics=metrics))
    assert "**On the test texts: a: Pearson correlation 0.5000, b: accuracy 0.7500.**" in card.text
    assert "**On" not in build_card(facts(metrics={"test": {"loss": 0.4}})).text


def test_several_tasks_are_asked_together_first():
    card = build_card(facts(tasks={"sst5": 1, "sts": 2}, metrics={}))
    blocks = re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)
    assert "MultitaskPipeline.from_pretrained" in blocks[0] and blocks[0].count("print(ask(") == 2


def test_a_caption_stands_once_and_its_figure_has_a_number():
    text = build_card(facts()).text
    assert text.count("Loss by epoch") == 1 and "![Figure 1](" in text and "Figure 1. Loss by epoch" in text


@pytest.mark.parametrize(
    ("changes", "has_examples"),
    [
        ({}, True),
        ({"text_pair": True}, False),
        ({"language": ["de"]}, False),
        ({"tasks": {"one": 2, "two": 1}}, True),
        ({"tasks": {"one": 2}}, False),
    ],
)
def test_the_hubs_page_offers_examples_for_one_english_text(changes, has_examples):
    metadata = build_card(facts(**{"metrics": {}, **changes})).data.to_dict()
    assert (metadata.get("widget") == [{"text": text} for text in EXAMPLES]) is has_examples


def test_the_loss_is_a_column_but_no_metric():
    card = build_card(facts(metrics={"test": {"loss": 0.5, "my_score": 0.25, "accuracy": 0.75}}))
    assert card.data.metrics == ["accuracy"]
    assert {r.metric_type for r in card.data.eval_results} == {"accuracy", "my_score"}
    assert "| Split | Examples | my_score | Accuracy | Loss |" in card.text


def test_tasks_that_read_pairs_apart_are_left_to_the_pipeline_that_can():
    card = build_card(facts(tasks={"a": 1, "b": 2, "c": 2}, separate_pairs=["c"], metrics={}))
    assert "transformers' pipeline cannot read pairs apart (c)" in card.text
    assert '"task_name": "b"' in card.text and '"task_name": "c"' not in card.text
    first = build_card(facts(tasks={"c": 2, "a": 1}, separate_pairs=["c"], metrics={})).text
    assert 'model_kwargs={"task_name": "a"}' in first and "This uses the first task" not in first
    assert "One task by the pipeline" not in first and "trust_remote_code" not in first
    assert first.count("from transformers import pipeline") == 1
