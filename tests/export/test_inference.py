from __future__ import annotations

import gc
import weakref
from threading import Thread
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, TextClassificationPipeline

from hf_layerfusion import BertForGRUFusionClassification, GRUFusionConfig
from hf_layerfusion.errors import UserError
from hf_layerfusion.export import inference_copy
from tests.modeling import multitask_cases
from tests.modeling.cases import CASES, build, inputs
from tests.tiny import MODEL_TYPES, tiny_config, tiny_tokenizer


@pytest.mark.parametrize("case", CASES)
def test_copy_answers_as_the_model(case: str) -> None:
    model = build(case).double()
    frozen = inference_copy(model)
    for batch in (inputs(), {"input_ids": inputs()["input_ids"]}):
        with torch.no_grad():
            expected = model(**batch).logits
            output = frozen(**batch)
        torch.testing.assert_close(output.logits, expected, rtol=0, atol=1e-12)
        assert output.hidden_states is None


@pytest.mark.parametrize("model_type", [name for name in MODEL_TYPES if name != "albert"])
def test_every_encoder_hands_on_the_states_that_it_records(model_type: str) -> None:
    config = GRUFusionConfig(encoder_config=tiny_config(model_type), num_groups=2, fusion_hidden_size=6)
    model = BertForGRUFusionClassification(config).eval().double()
    batch = inputs()
    with torch.no_grad():
        expected = model(**batch).logits
        torch.testing.assert_close(inference_copy(model)(**batch).logits, expected, rtol=0, atol=1e-12)


def test_states_are_gone_when_their_group_is_fused() -> None:
    frozen = inference_copy(build("share-gru"))
    layers = frozen.model.encoder.encoder.layer
    alive: list[int] = []
    states: list[Any] = []

    def count(module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: Any) -> None:
        states.append(weakref.ref(output[0] if isinstance(output, tuple) else output))
        gc.collect()
        alive.append(sum(state() is not None for state in states))

    for layer in layers:
        layer.register_forward_hook(count)
    with torch.no_grad():
        frozen(**inputs())
    # A layer's input and its output: what the fuser reads of a state it has read by then.
    assert alive == [1, 2, 2, 2]


@pytest.mark.parametrize("case", ["share-gru", "cat-lstm", "cat-linear"])
def test_copy_answers_in_bf16_too(case: str) -> None:
    model = build(case)
    frozen = inference_copy(model)
    batch = inputs()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected, found = model(**batch).logits, frozen(**batch).logits
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


def test_copy_is_frozen_and_the_model_as_it_was() -> None:
    model = build("cat-gru").train()
    frozen = inference_copy(model)
    assert not frozen.training and model.training
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model(**inputs(), output_hidden_states=True).hidden_states is not None
    model.zero_grad()
    weight = next(model.parameters())
    before = next(frozen.parameters()).clone()
    weight.data.zero_()
    assert torch.equal(next(frozen.parameters()), before)


def test_copies_of_copies_and_threads() -> None:
    model = build("scalar_mix-gru").double()
    frozen = inference_copy(inference_copy(model))
    batches = [inputs(length=length) for length in (4, 6, 9, 12)]
    found: list[Any] = [None] * len(batches)

    def answer(index: int) -> None:
        with torch.no_grad():
            found[index] = frozen(**batches[index]).logits

    threads = [Thread(target=answer, args=(index,)) for index in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.no_grad():
        for batch, logits in zip(batches, found, strict=True):
            torch.testing.assert_close(logits, model(**batch).logits, rtol=0, atol=1e-12)


def test_plain_classifiers_tasks_and_pipelines() -> None:
    plain = AutoModelForSequenceClassification.from_config(tiny_config("bert", 1)).eval()
    task = multitask_cases.build().task("sst5")
    for model in (plain, task, build("share-gru")):
        frozen = inference_copy(model)
        pipelines = [
            TextClassificationPipeline(model=m, tokenizer=tiny_tokenizer(), device="cpu")
            for m in (frozen, model)
        ]
        found, expected = (pipeline("a good day")[0] for pipeline in pipelines)
        assert found["label"] == expected["label"]
        assert found["score"] == pytest.approx(expected["score"], abs=1e-6)


def test_hidden_states_are_refused() -> None:
    frozen = inference_copy(build("share-gru"))
    with pytest.raises(
        ValueError, match=r"must be left out after `stream_layers`.* load the model again for hidden states"
    ):
        frozen(**inputs(), output_hidden_states=True)


def test_an_encoder_whose_layers_are_one_is_refused() -> None:
    config = GRUFusionConfig(encoder_config=tiny_config("albert"), num_groups=2)
    with pytest.raises(
        UserError, match=r"^`stream_layers` must not be called for 'albert', .* use an encoder such as"
    ):
        inference_copy(BertForGRUFusionClassification(config))


def test_an_encoder_that_skips_its_layers_is_refused() -> None:
    frozen = inference_copy(build("share-gru"))
    del frozen.model.encoder.encoder.layer[1]
    with pytest.raises(ValueError, match="must run each of its layers once, found fewer in 'bert'"):
        frozen(input_ids=torch.ones(1, 3, dtype=torch.long))
