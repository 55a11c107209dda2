"""Tests that any text of a user leaves the card's structure and metadata intact."""

import ast
from urllib.parse import unquote

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK, metadata_load
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from hf_layerfusion.hub.card import build_card
from hf_layerfusion.hub.ensemble_card import ensemble_facts
from hf_layerfusion.hub.markdown import markdown_table, single_line
from hf_layerfusion.hub.usage import code_string
from tests.hub.small import Elements, facts, manifest, outline, render

SIGNS = st.sampled_from(
    [*"\\`*_[](){}<>#+-=.!|~&$:;/\"'?%@, \t\n\r1a", "---", "```", "é", "\x85", "\u2028", "\u202e"]
)
TEXTS = (st.lists(SIGNS, min_size=1, max_size=12).map("".join) | st.text(min_size=1, max_size=30)).filter(
    single_line
)
FILE_NAMES = TEXTS.filter(
    lambda text: text.isprintable() and not {"/", "\\"} & {*text} and text not in (".", "..")
)


def card_of(text, file_name="a.png"):
    """Return a card in which every string of a user is `text`."""
    return build_card(
        facts(
            model_name=text,
            encoder=text,
            model_path=text,
            warning=text,
            opening=text,
            architecture=[text],
            dataset_name=text,
            dataset_description=text,
            dataset_defects=[text],
            num_examples={"test": 3},
            tasks={text: 1, "two": 2},
            preparation=[text],
            metrics={text: {f"{text}_accuracy": 0.5, "mean": 0.5}},
            recipe={text: text},
            epochs=[{text: 1.0}],
            environment={text: text},
            hardware=text,
            figures=[(text, file_name)],
            limits=[text],
            sections=[(text, str(markdown_table(["label", text], [[text, 1]])))],
        )
    )


TAME = card_of("tame")
TAME_OUTLINE, TAME_PAGE = outline(TAME), Elements(render(TAME))
TAME_ENSEMBLE = build_card(ensemble_facts(facts(), manifest()))


@settings(max_examples=100, deadline=None)
@example("a\n---\nlicense: evil\n---\nb")
@example("!!python/object/apply:os.system ['id']")
@example("1. one")
@example("\\---")
@given(TEXTS)
def test_any_text_keeps_the_structure_and_comes_back_from_the_metadata(text):
    assume(single_line(text) not in ("two", "mean"))
    card = card_of(text)
    assert [tag for tag, _ in outline(card)] == [tag for tag, _ in TAME_OUTLINE]
    page = Elements(render(card))
    assert page.counts == TAME_PAGE.counts
    assert page.hrefs == TAME_PAGE.hrefs

    metadata = yaml.safe_load(REGEX_YAML_BLOCK.search(card.content)[2])
    assert set(metadata) == set(TAME.data.to_dict())
    (entry,) = metadata["model-index"]
    results = entry["results"]
    shown = single_line(text)
    assert entry["name"] == results[0]["dataset"]["config"] == shown
    assert {result["dataset"]["name"] for result in results} == {shown}
    assert {result["dataset"]["split"] for result in results} == {shown}
    if text.isprintable() and " ".join(text.split()) == text:
        assert shown == text


@settings(max_examples=30, deadline=None)
@given(FILE_NAMES)
def test_any_file_name_is_one_image(file_name):
    page = Elements(render(card_of("tame", file_name)))
    assert page.counts == TAME_PAGE.counts
    assert file_name in map(unquote, page.hrefs)


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_any_text_is_a_string_of_the_code(text):
    assert ast.literal_eval(code_string(text)) == single_line(text)


@settings(max_examples=50, deadline=None)
@given(TEXTS, TEXTS, TEXTS)
def test_any_member_task_and_label_keeps_the_structure_of_an_ensembles_card(name, task, label):
    assume(task != "mood" and label not in ("bad", "good", "rest"))
    card = build_card(ensemble_facts(facts(model_name=name), manifest(name, task, label)))
    assert [tag for tag, _ in outline(card)] == [tag for tag, _ in outline(TAME_ENSEMBLE)]
    page = Elements(render(card))
    assert page.counts == Elements(render(TAME_ENSEMBLE)).counts


def test_a_saved_card_loads_back_letter_by_letter(tmp_path):
    card = card_of("é 😀: [x] 'y' \"z\"")
    card.save(tmp_path / "README.md")
    assert metadata_load(tmp_path / "README.md")["model-index"][0]["name"] == "é 😀: [x] 'y' \"z\""
