from __future__ import annotations

import pytest
from transformers import AutoModel, BertConfig

from hf_layerfusion import CerbertusConfig, parameter_counts
from tests.modeling.multitask_cases import TASKS, WIDTH, build
from tests.tiny import tiny_config

THREE = {name: {"labels": ["x", "y"]} for name in ("sst", "qqp", "sts")}
# Of one layer of BERT-base: four square maps and the feed-forward's two, their biases, two norms.
LAYER = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 768 + 3072 + 4 * 768
BASE = 109_482_240 - 768 * 769  # BERT-base by its own count, without the pooler
HEAD = 2 * 768 + 2


@pytest.mark.parametrize(
    ("settings", "shared", "task", "millions"),
    [
        # SerBERTus, Table 7, where the heads' few thousands and the pooler's 0.6 M do not show.
        ({}, BASE, HEAD, 110),
        ({"num_task_layers": 2}, BASE - 2 * LAYER, 2 * LAYER + HEAD, 138),
        ({"num_task_layers": 3}, BASE - 3 * LAYER, 3 * LAYER + HEAD, 153),
        ({"encoders": ["own"]}, 0, BASE + HEAD, 330),
        ({"encoders": ["shared", "own"]}, BASE, BASE + HEAD + 2 * 768, 440),
    ],
)
def test_bert_base(settings: dict, shared: int, task: int, millions: int) -> None:
    counts = parameter_counts(CerbertusConfig(encoder_config=BertConfig(), tasks=THREE, **settings))
    assert (counts.shared, counts.frozen, counts.tasks) == (shared, 0, dict.fromkeys(THREE, task))
    assert counts.total == shared + 3 * task
    assert counts.total / 1e6 == pytest.approx(millions, rel=0.02)


def test_of_a_model_and_of_its_configuration() -> None:
    model = build(encoders=["shared", "frozen", "own"], num_task_layers=2)
    counts = parameter_counts(model)
    assert counts == parameter_counts(model.config)
    encoder = AutoModel.from_config(tiny_config("bert", 4), add_pooling_layer=False)
    size = sum(parameter.numel() for parameter in encoder.parameters())
    layer = sum(parameter.numel() for parameter in encoder.encoder.layer[0].parameters())
    assert (counts.shared, counts.frozen) == (size - 2 * layer, size)
    width = 3 * WIDTH  # three encoders side by side
    heads = {"sst5": 5 * width + 5, "quora": width + 1, "sts": 3 * width + 1}
    assert counts.tasks == {name: size + 2 * layer + heads[name] for name in TASKS}
    assert counts.total == sum(parameter.numel() for parameter in model.parameters())
