"""Tests of adapters from the Hub in a new process with an empty cache, together with their encoder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.hub.client import Client
from tests.hub.server import Hub

# An encoder and two models on it: one adapter, and one for each of two tasks.
PUSH = """
import torch
from peft import LoraConfig
from transformers import AutoModel, AutoTokenizer
from hf_layerfusion import BertForGRUFusionClassification, CerbertusForMultitask, add_adapters

AutoModel.from_pretrained(folder).push_to_hub("org/encoder")
classifier = BertForGRUFusionClassification.from_pretrained("org/encoder", num_groups=2)
tasks = {name: {"labels": ["no", "yes"]} for name in ("one", "two")}
models = {"org/adapter": classifier, "org/adapters": CerbertusForMultitask.from_pretrained("org/encoder", tasks=tasks)}
result = {}
for repo, model in models.items():
    model = add_adapters(model, LoraConfig(init_lora_weights=False)).eval()
    model.push_to_hub(repo)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.push_to_hub(repo)
    with torch.no_grad():
        result[repo] = model(**tokenizer(["sad"], return_tensors="pt")).logits.tolist()
"""
PULL = """
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline
from hf_layerfusion import BertForGRUFusionClassification, CerbertusForMultitask, load_adapter_model

result = {}
for repo, model_class in (("org/adapter", BertForGRUFusionClassification), ("org/adapters", CerbertusForMultitask)):
    batch = AutoTokenizer.from_pretrained(repo)(["sad"], return_tensors="pt")
    config = AutoConfig.from_pretrained(repo)
    ways = [
        load_adapter_model(repo),
        model_class.from_pretrained(repo),
        AutoModelForSequenceClassification.from_pretrained(repo, config=config),
    ]
    with torch.no_grad():
        result[repo] = [model(**batch).logits.tolist() for model in ways]
opened = load_adapter_model("org/adapter").get_base_model()
answer = pipeline("text-classification", opened, tokenizer="org/adapter")("sad")[0]
result["answer"] = answer["score"]
"""


@pytest.fixture
def fresh(hub: Hub, tmp_path: Path) -> Iterator[Client]:
    client = Client(hub, tmp_path / "home")
    yield client
    client.close()


def test_every_way_from_the_hub(xet_client: Client, fresh: Client, tiny_encoder_dir: str) -> None:
    expected = xet_client.run(PUSH, folder=tiny_encoder_dir)
    found = fresh.run(PULL)
    for repo, logits in expected.items():
        for way in found[repo]:
            torch.testing.assert_close(torch.tensor(way), torch.tensor(logits), rtol=0, atol=1e-6)
    probability = torch.tensor(expected["org/adapter"]).softmax(-1).max().item()
    assert found["answer"] == pytest.approx(probability, abs=1e-5)
