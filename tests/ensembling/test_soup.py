"""Tests of soups against their definition, and of refusals."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, pipeline

from hf_layerfusion.ensembling.soup import make_soup
from hf_layerfusion.ensembling.trained_texts import read_trained_texts, text_hashes, write_trained_texts
from hf_layerfusion.errors import UserError
from tests.ensembling.small import TEXTS, byte_level_bpe, save_member


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    folder = tmp_path_factory.mktemp("soup")
    return [save_member(folder / f"m{seed}", seed=seed) for seed in range(3)]


def test_a_soup_is_the_average_of_weights_and_a_model_like_another(members, tmp_path):
    make_soup(members, tmp_path / "soup", weights=[1, 2, 1])
    parts = [load_file(Path(member) / "model.safetensors") for member in members]
    found = load_file(tmp_path / "soup" / "model.safetensors")
    assert found.keys() == parts[0].keys()
    for name, tensor in found.items():
        expected = np.average(
            [part[name].numpy().astype(np.float64) for part in parts], axis=0, weights=[1, 2, 1]
        )
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-6, atol=1e-8)
        assert tensor.dtype == parts[0][name].dtype
    answers = pipeline("text-classification", model=str(tmp_path / "soup"))(TEXTS)
    assert len(answers) == len(TEXTS)
    assert read_trained_texts(tmp_path / "soup") is None


def test_a_soup_of_one_model_is_that_model_in_its_own_type(members, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(members[0]).to(torch.bfloat16)
    shutil.copytree(members[0], tmp_path / "half")
    model.save_pretrained(tmp_path / "half")
    write_trained_texts(tmp_path / "half", text_hashes([("a",)]), text_hashes([("b",)]))
    make_soup([tmp_path / "half"] * 2, tmp_path / "soup")
    half, soup = (load_file(tmp_path / name / "model.safetensors") for name in ("half", "soup"))
    assert all(torch.equal(half[name], soup[name]) and soup[name].dtype == half[name].dtype for name in half)
    seen, own = read_trained_texts(tmp_path / "soup"), read_trained_texts(tmp_path / "half")
    assert all(np.array_equal(seen[part], own[part]) for part in own)


def changed(folder, source, change):
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


BIAS = "classifier.bias"
MISTAKES = {
    "one member": (lambda ms, f: ms[:1], {}, "two members or more, found 1"),
    "weights": (
        lambda ms, f: ms,
        {"weights": [1]},
        "weights must have one non-negative value for each of 3 members",
    ),
    "no weight": (
        lambda ms, f: ms,
        {"weights": [0, 0, 0]},
        "weights must have one non-negative value for each of 3 members",
    ),
    "another architecture": (
        lambda ms, f: [ms[0], save_member(f / "x", "roberta")],
        {},
        "member x: a soup's members must have one configuration",
    ),
    "labels in another order": (
        lambda ms, f: [ms[0], save_member(f / "x", labels=("neutral", "negative", "positive"))],
        {},
        "found another id2label",
    ),
    "no model": (lambda ms, f: [ms[0], f / "x"], {}, "must be a model's folder"),
    "tensor missing": (
        lambda ms, f: [ms[0], changed(f / "x", ms[1], lambda t: t.pop(BIAS))],
        {},
        "found a difference in classifier.bias",
    ),
    "tensor of another type": (
        lambda ms, f: [ms[0], changed(f / "x", ms[1], lambda t: t.update({BIAS: t[BIAS].half()}))],
        {},
        "found (3,) torch.float16 of classifier.bias",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_no_soup_is_refused_and_leaves_nothing(members, tmp_path, mistake):
    make, options, message = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        make_soup(make(members, tmp_path), tmp_path / "soup", **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "soup").exists()


def test_another_vocabulary_or_a_full_folder_is_refused(members, tmp_path):
    shutil.copytree(members[1], tmp_path / "other")
    byte_level_bpe().save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="member other: a soup's members must share a vocabulary"):
        make_soup([members[0], tmp_path / "other"], tmp_path / "soup")
    with pytest.raises(UserError, match="must be a new or empty folder"):
        make_soup(members, tmp_path / "other")
