"""A saved folder through the Auto classes and `pipeline`, with the package and, in a fresh interpreter, without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from hf_layerfusion import (
    BertForGRUFusionClassification,
    BertWithPoolingModule,
    CerbertusConfig,
    CerbertusForMultitask,
    CerbertusModel,
    GRUFusionConfig,
    GRUFusionModel,
    LayerPoolingConfig,
    LayerPoolingModel,
    add_adapters,
)
from tests.tiny_words import WORD_ENCODERS

TEXTS = ["what a great day", "sad"]
CLASSES = {
    "fused": (GRUFusionConfig, GRUFusionModel, BertForGRUFusionClassification),
    "pooled": (LayerPoolingConfig, LayerPoolingModel, BertWithPoolingModule),
    "multitask": (CerbertusConfig, CerbertusModel, CerbertusForMultitask),
    "fused-adapted": (GRUFusionConfig, GRUFusionModel, BertForGRUFusionClassification),
    "multitask-adapted": (CerbertusConfig, CerbertusModel, CerbertusForMultitask),
    **{
        f"words-{kind}": (GRUFusionConfig, GRUFusionModel, BertForGRUFusionClassification)
        for kind in ("static", "stack")  # which holds ELMo too
    },
}
SETTINGS = {
    "fused": {"num_groups": 2, "id2label": {0: "negative", 1: "positive"}},
    "words": {"num_groups": 1, "id2label": {0: "negative", 1: "positive"}},
    "pooled": {"pooling": "attention", "id2label": {0: "negative", 1: "positive"}},
    "multitask": {
        "encoders": ["shared", "own"],
        "num_task_layers": 2,
        "task_name": "mood",
        "tasks": {
            "topic": {"labels": ["a", "b", "c"], "fusion": {"pooling": "lstm"}},
            "mood": {"labels": ["negative", "positive"], "sentence_vector": "pooler"},
        },
    },
}

WITHOUT_THE_PACKAGE = """
import json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_layerfusion":
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Blocker())
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

found = {}
for folder in sys.argv[2:]:
    batch = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)(
        json.loads(sys.argv[1]), padding=True, return_tensors="pt"
    )
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    classify = pipeline("text-classification", model=folder, trust_remote_code=True)
    found[folder] = {
        "config": type(AutoConfig.from_pretrained(folder, trust_remote_code=True)).__name__,
        "base": AutoModel.from_pretrained(folder, trust_remote_code=True)(**batch)[0].tolist(),
        "logits": model(**batch).logits.tolist(),
        "answers": classify(json.loads(sys.argv[1])),
    }
assert not any(name.partition(".")[0] == "hf_layerfusion" for name in sys.modules)
print("found:" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def folders(tiny_encoder_dir: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    saved = {}
    for name, (_, _, classifier) in CLASSES.items():
        saved[name] = str(tmp_path_factory.mktemp(name))
        kind, _, other = name.partition("-")
        encoder = tiny_encoder_dir
        if kind == "words":
            encoder = str(WORD_ENCODERS[other](tmp_path_factory.mktemp(other)))
        model = classifier.from_pretrained(encoder, **SETTINGS[kind])
        if other == "adapted":
            model = add_adapters(model, LoraConfig(init_lora_weights=False))
        model.save_pretrained(saved[name])
        AutoTokenizer.from_pretrained(encoder).save_pretrained(saved[name])
    return saved


def answers(folder: str) -> dict:
    batch = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return {
            "config": type(AutoConfig.from_pretrained(folder)).__name__,
            "base": AutoModel.from_pretrained(folder)(**batch)[0].tolist(),
            "logits": AutoModelForSequenceClassification.from_pretrained(folder)(**batch).logits.tolist(),
            "answers": pipeline("text-classification", model=folder)(TEXTS),
        }


@pytest.mark.parametrize("name", CLASSES)
def test_auto_classes_and_pipeline(name: str, folders: dict[str, str]) -> None:
    for auto, expected in zip(
        (AutoConfig, AutoModel, AutoModelForSequenceClassification), CLASSES[name], strict=True
    ):
        assert type(auto.from_pretrained(folders[name])) is expected
    found = answers(folders[name])
    assert [answer["label"] for answer in found["answers"]] == [
        ("negative", "positive")[row[1] > row[0]] for row in found["logits"]
    ]


def test_without_the_package(folders: dict[str, str], tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", WITHOUT_THE_PACKAGE, json.dumps(TEXTS), *folders.values()]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.partition("found:")[2])
    for folder in folders.values():
        expected = answers(folder)
        assert found[folder]["config"] == expected["config"]
        assert [answer["label"] for answer in found[folder]["answers"]] == [
            answer["label"] for answer in expected["answers"]
        ]
        for name in ("logits", "base"):
            torch.testing.assert_close(
                torch.tensor(found[folder][name]), torch.tensor(expected[name]), rtol=0, atol=1e-6
            )
