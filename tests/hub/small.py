"""Small cards, and a parser of their Markdown."""

import itertools
from html.parser import HTMLParser

from markdown_it import MarkdownIt

from hf_layerfusion.hub.card_facts import CardFacts


def facts(**changes):
    known = {
        "model_name": "grubert-share-3",
        "encoder": "org/encoder",
        "base_model": "org/encoder",
        "base_model_license": "apache-2.0",
        "model_path": "org/grubert-share-3",
        "architecture": ["6 layers of width 384", "Fuser share-3"],
        "parameters": 23_456_789,
        "language": ["en"],
        "dataset_name": "Tweets",
        "dataset_id": "org/tweets",
        "dataset_description": "Tweets with an emoticon.",
        "dataset_defects": ["Noisy labels"],
        "num_examples": {"train": 7000, "validation": 3000},
        "preparation": ["@name becomes xxuser"],
        "metrics": {
            "validation": {"accuracy": 0.81236, "f1_macro": 0.8, "loss": 0.41},
            "test": {"accuracy": 0.8},
        },
        "recipe": {"learning_rate": 1e-5, "betas": [0.9, 0.999], "bf16": False},
        "seeds": [0, 1],
        "epochs": [{"epoch": 1.0, "loss": 0.61}, {"epoch": 2.0, "loss": 0.5, "accuracy": 0.8}],
        "training_seconds": 3725.0,
        "environment": {"python": "3.11.7"},
        "figures": [("Loss by epoch", "plots/training curves.png")],
        "limits": ["English only"],
        "sections": [("Seeds", "| a |\n| --- |\n| **1** |")],
    }
    return CardFacts(**(known | changes))


def render(card):
    return MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(card.text)


class Elements(HTMLParser):
    """Parser that counts the elements of a page and collects its text."""

    def __init__(self, page):
        super().__init__()
        self.counts, self.text, self.hrefs = {}, "", []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.hrefs += [value for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data):
        self.text += data


def outline(card):
    """Return the headings as `(level, text)`, as a Markdown parser finds them."""
    tokens = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(card.text)
    return [
        (token.tag, "".join(child.content for child in inline.children))
        for token, inline in itertools.pairwise(tokens)
        if token.type == "heading_open"
    ]


def headings(card):
    return [text for _, text in outline(card)]


def manifest(text="second", task="topic", label="other"):
    """Return the `ensemble.json` of two members with two tasks."""
    labels = {"mood": ["bad", "good"], task: [label, "rest"]}
    members = [
        {"name": "first", "hub_id": "org/first", "revision": "abc", "sha256": "1" * 64, "task": None},
        {"name": text, "hub_id": None, "revision": None, "sha256": "2" * 64, "task": task},
    ]
    return {
        "members": members,
        "tasks": {
            "mood": {
                "combiner": {"name": "average_probabilities", "weights": [2.0, 1.0]},
                "labels": labels["mood"],
                "fitted": {"rows": 1200, "metric": "accuracy", "score": 0.75, "out_of_fold": False},
            },
            task: {"combiner": {"name": "majority_vote"}, "labels": labels[task], "fitted": None},
        },
        "unverified_members": [text],
    }
