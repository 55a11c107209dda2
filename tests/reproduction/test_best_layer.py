"""Tests of the row that fits a probe to each layer of a frozen encoder and predicts with the best one."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from numpy.testing import assert_allclose
from transformers import AutoModel, AutoTokenizer

from hf_layerfusion.data.labels import LabelSchema
from hf_layerfusion.evaluation.linear_probe import fit_linear_probe
from hf_layerfusion.recipes.data_preparation import PreparedData
from hf_layerfusion.recipes.recipe_arguments import CheckpointArguments
from reproduction.best_layer import best_layer
from reproduction.run_table import RunTable
from reproduction.runner import execute
from tests.tiny import read_csv, tiny_texts, write_csv


def layer_means(encoder: str, texts: list[str]) -> np.ndarray:
    """Return the mean over a text's tokens at each layer, `[L, N, H]`, one text at a time."""
    tokenizer, model = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()
    found = []
    with torch.no_grad():
        for text in texts:
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
            found.append(torch.stack([state[0].mean(0) for state in states[1:]]).numpy())
    return np.stack(found, axis=1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_layer_is_chosen_on_the_training_rows(tiny_encoder_dir, tmp_path, seed):
    rows = {"train": tiny_texts(80, seed=2 * seed), "test": tiny_texts(30, seed=2 * seed + 1)}
    names = sorted({label for _, label in rows["train"]})
    splits = {
        name: Dataset.from_list([{"text": text, "label": names.index(label)} for text, label in each])
        for name, each in rows.items()
    }
    schema = LabelSchema("single_label_classification", tuple(names))
    data = PreparedData(splits, splits["train"], schema, ("text",), ())
    found = best_layer(
        data,
        CheckpointArguments(tiny_encoder_dir),
        apart=False,
        cache_dir=str(tmp_path / "states"),
        batch_size=8,
        seed=seed,
    )

    labels = np.array(splits["train"]["label"])
    train, test = (layer_means(tiny_encoder_dir, list(split["text"])) for split in splits.values())
    probes = [fit_linear_probe(each, labels, schema.problem_type, seed=seed) for each in train]
    best = int(np.argmax([probe.cv_score for probe in probes]))
    assert found.layer == best + 1
    # The states are kept in half precision.
    assert_allclose(found.outputs, probes[best].outputs(test[best]), atol=0.02)
    assert found.parameters == (
        AutoModel.from_pretrained(tiny_encoder_dir, add_pooling_layer=False).num_parameters()
        + probes[best].weight.size
        + probes[best].bias.size
    )


def test_a_row_of_a_table(tiny_encoder_dir, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_csv(data / "train.csv", tiny_texts(80))
    write_csv(data / "test.csv", tiny_texts(30, seed=1))
    settings = {
        "model_name_or_path": tiny_encoder_dir, "use_cpu": True, "train_on_all": True,
        "cache_frozen_states": str(tmp_path / "states"),
    }  # fmt: skip
    files = {"train_file": "train.csv", "test_file": "test.csv"}
    variants = {"best": {"recipe": "text-best-layer"}}
    table = RunTable("t", "T", "g", "test", "accuracy", "best", files, settings, [0], variants, "text")
    (run,) = table.runs()
    content = json.loads(execute(run, data, tmp_path / "results", tmp_path / "work").read_text())
    predictions, labels = content["predictions"].split(), content["labels"].split()
    assert content["layer"] in (1, 2) and content["num_examples"] == {"train": 80, "test": 30}
    assert content["metrics"]["test"]["accuracy"] == np.mean(np.equal(predictions, labels))
    names = sorted({row["label"] for row in read_csv(data / "train.csv")})
    assert labels == [str(names.index(row["label"])) for row in read_csv(data / "test.csv")]
