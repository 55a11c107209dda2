"""Tests that an ensemble's card is built like every other, from what its run measured and from its members."""

from hf_layerfusion.hub.card import build_card
from hf_layerfusion.hub.card_facts import CardFacts
from hf_layerfusion.hub.ensemble_card import ensemble_card, ensemble_facts
from tests.hub.small import headings, manifest


def card(**changes):
    known = {
        "model_path": "org/both",
        "base_model_license": "mit",
        "language": ["en"],
        "tasks": {"mood": 1, "topic": 2},
        "metrics": {"test": {"mood_accuracy": 0.75, "topic_accuracy": 0.5, "mean": 0.625}},
        "environment": {"python": "3.11.7"},
        "figures": [("Score against the number of members.", "plots/gain.png")],
    }
    return build_card(ensemble_facts(CardFacts("both", **(known | changes)), manifest()))


def test_metadata_name_members_licence_and_figures():
    metadata = card().data.to_dict()
    assert metadata["base_model"] == ["org/first"]
    assert metadata["license"] == "mit"
    assert metadata["library_name"] == "hf_layerfusion"
    assert metadata["tags"] == ["hf_layerfusion", "ensemble"]
    found = {(r.dataset_name, r.metric_type): r.metric_value for r in card().data.eval_results}
    assert found == {
        ("mood", "accuracy"): 0.75,
        ("topic", "accuracy"): 0.5,
    }


def test_page_says_who_the_members_are_and_how_they_are_combined():
    page = card()
    assert headings(page) == [
        "both", "How to use", "Results", "Members", "How they are combined", "Software",
    ]  # fmt: skip
    for said in (
        "An ensemble of 2 members that answers 2 tasks in one pass: mood and topic. It predicts",
        "| 1 | org/first | all it has | abc | 1111111111111111 |",
        "may include the texts that the combiner was fitted on: second.",
        "weights 2 1 | 1,200 held-out texts: accuracy 0.7500 | bad, good |",
        'Ensemble.from_pretrained("org/both")',
        'print(ensemble({"text": "A man plays a guitar.", "text_pair": "Somebody makes music."}, task="topic"))',
        "plots/gain.png",
        "python 3.11.7",
    ):
        assert said in page.text


def test_the_licence_is_the_members_where_all_have_the_same(tmp_path):
    places = [tmp_path / name for name in ("first", "second", "third")]
    for place, license_id in zip(places, ("mit", "mit", "apache-2.0"), strict=True):
        place.mkdir()
        (place / "README.md").write_text(f"---\nlicense: {license_id}\n---\n")
    for members, expected in ((places[:2], "mit"), (places, None), ([places[0], None], None)):
        page = ensemble_card(tmp_path / "both", manifest(), members, None)
        assert page.data.to_dict().get("license") == expected
        assert headings(page)[0] == "both"


def test_what_was_not_measured_gets_no_section():
    page = card(metrics={}, environment={}, figures=[])
    assert headings(page) == ["both", "How to use", "Members", "How they are combined"]
    assert "model-index" not in page.data.to_dict()
