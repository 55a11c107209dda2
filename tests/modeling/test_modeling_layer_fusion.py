"""Loading, saving and initialization: any encoder, any style of checkpoint, nothing left to chance."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    BertModel,
)

from hf_layerfusion import (
    BertForGRUFusionClassification,
    BertWithPoolingModule,
    GRUFusionConfig,
    GRUFusionModel,
)
from tests.modeling.cases import CASES, SMALL, inputs, model_class, settings
from tests.tiny import MODEL_TYPES, assert_close_values, assert_same_weights, tiny_config


def states_of(folder: str | Path, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return AutoModel.from_pretrained(folder)(**batch, output_hidden_states=True).hidden_states


def assert_same_encoder(model: nn.Module, folder: str | Path) -> None:
    batch = inputs()
    with torch.no_grad():
        found = model(**batch, output_hidden_states=True).hidden_states
    expected = states_of(folder, batch)
    assert len(found) == len(expected)
    for state, other in zip(found, expected, strict=True):
        assert_close_values(state, other)


# --- any architecture, by one mechanism ------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_any_encoder(model_type: str, tmp_path: Path) -> None:
    AutoModel.from_config(tiny_config(model_type)).save_pretrained(tmp_path / "encoder")
    model = BertForGRUFusionClassification.from_pretrained(
        tmp_path / "encoder", normalize_layers=False, **SMALL
    )
    assert not model.training
    assert_same_encoder(model, tmp_path / "encoder")

    fed = []
    model.model.fuser.register_forward_pre_hook(lambda _, args: fed.extend(args[0]))
    batch = inputs()
    mask = batch["attention_mask"].bool()
    with torch.no_grad():
        logits = model(**batch).logits
        for seen, expected in zip(fed, states_of(tmp_path / "encoder", batch)[1:], strict=True):
            assert_close_values(seen, expected)
        noise = torch.where(mask, batch["input_ids"], torch.randint(5, 100, mask.shape))
        noisy = model(noise, batch["attention_mask"]).logits
        alone = model(batch["input_ids"][:1, mask[0]]).logits
    # MPNet's and RoBERTa's positions depend on which ids are padding, so only real tokens may stand there.
    if model_type not in ("roberta", "xlm-roberta", "mpnet"):
        torch.testing.assert_close(noisy, logits, rtol=0, atol=2e-5)
    torch.testing.assert_close(alone, logits[:1], rtol=0, atol=2e-5)

    model.save_pretrained(tmp_path / "ours")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours")
    with torch.no_grad():
        assert_close_values(loaded(**batch).logits, logits)
    assert_same_weights(loaded, model)
    model.train()(**batch, labels=torch.tensor([0, 1, 0])).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("model_type", ["bert", "roberta", "modernbert"])
def test_eager_and_sdpa_attention_agree(model_type: str, tmp_path: Path) -> None:
    AutoModel.from_config(tiny_config(model_type)).save_pretrained(tmp_path)
    models = [
        BertForGRUFusionClassification.from_pretrained(tmp_path, attn_implementation=name, **SMALL)
        for name in ("eager", "sdpa")
    ]
    models[1].load_state_dict(models[0].state_dict())
    assert [model.model.encoder.config._attn_implementation for model in models] == ["eager", "sdpa"]
    with torch.no_grad():
        eager, sdpa = (model(**inputs_once()).logits for model in models)
    torch.testing.assert_close(eager, sdpa, rtol=0, atol=1e-5)


def inputs_once() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return inputs()


def test_pretrained_weights(encoder_dir: str) -> None:
    model = BertForGRUFusionClassification.from_pretrained(encoder_dir)
    assert (model.config.num_hidden_layers, model.model.fuser.output_size) == (6, 600)
    assert_same_encoder(model, encoder_dir)


# --- any style of checkpoint -----------------------------------------------------------------------------------------


def pretraining(folder: Path) -> None:
    AutoModelForPreTraining.from_config(tiny_config("bert")).save_pretrained(folder)


def masked_lm(folder: Path) -> None:
    AutoModelForMaskedLM.from_config(tiny_config("bert")).save_pretrained(folder)


def sharded(folder: Path) -> None:
    AutoModel.from_config(tiny_config("bert")).save_pretrained(folder, max_shard_size="30KB")
    assert len(list(folder.glob("*.safetensors"))) > 1


def old_names(folder: Path) -> None:
    """LayerNorms as TensorFlow called them, below `bert.`: what bert-base-uncased holds."""
    pretraining(folder)
    path = folder / "model.safetensors"
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in load_file(path).items()
    }
    # Ones and zeros would hide that they were skipped.
    renamed = {n: torch.randn_like(v) if "gamma" in n or "beta" in n else v for n, v in renamed.items()}
    save_file(renamed, path, metadata={"format": "pt"})


def pickled(folder: Path) -> None:
    pretraining(folder)
    path = folder / "model.safetensors"
    torch.save(load_file(path), folder / "pytorch_model.bin")
    path.unlink()


@pytest.mark.parametrize("style", [pretraining, masked_lm, sharded, old_names])
def test_style_of_checkpoint(style: Callable[[Path], None], tmp_path: Path) -> None:
    style(tmp_path / "encoder")
    model = BertForGRUFusionClassification.from_pretrained(tmp_path / "encoder", **SMALL)
    assert_same_encoder(model, tmp_path / "encoder")

    # What we save has our own names, so that a strict load, as a Trainer's resume does it, skips nothing.
    model.save_pretrained(tmp_path / "ours")
    stored = load_file(tmp_path / "ours" / "model.safetensors")
    assert stored.keys() == model.state_dict().keys()
    other = BertForGRUFusionClassification.from_pretrained(tmp_path / "encoder", **SMALL)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    other.load_state_dict(stored, strict=True)
    batch = inputs()
    with torch.no_grad():
        assert_close_values(other(**batch).logits, model(**batch).logits)
        loaded = BertForGRUFusionClassification.from_pretrained(tmp_path / "ours")
        assert_close_values(loaded(**batch).logits, model(**batch).logits)
    assert_same_weights(loaded, model)


def test_old_names_are_really_read(tmp_path: Path) -> None:
    old_names(tmp_path)
    model = BertWithPoolingModule.from_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    norm = model.model.encoder.embeddings.LayerNorm
    assert torch.equal(norm.weight, stored["bert.embeddings.LayerNorm.gamma"])
    assert torch.equal(norm.bias, stored["bert.embeddings.LayerNorm.beta"])


def test_pickle_is_refused_unless_asked_for(tmp_path: Path) -> None:
    pickled(tmp_path)
    with pytest.raises(OSError, match="safetensors"):
        BertForGRUFusionClassification.from_pretrained(tmp_path, **SMALL)
    model = BertForGRUFusionClassification.from_pretrained(tmp_path, use_safetensors=None, **SMALL)
    assert_same_encoder(model, tmp_path)


def test_checkpoint_without_the_encoders_weights(tmp_path: Path) -> None:
    BertModel(tiny_config("bert")).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    kept = {n: v for n, v in load_file(path).items() if "layer.3." not in n}
    save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"must hold every weight of its encoder.*encoder\.layer\.3"
    ) as error:
        BertForGRUFusionClassification.from_pretrained(tmp_path, **SMALL)
    assert "\n" not in str(error.value)


def test_encoder_decoder_whose_encoder_cannot_be_taken_out() -> None:
    small = {
        f"{part}_{name}": 2
        for part in ("encoder", "decoder")
        for name in ("layers", "ffn_dim", "attention_heads")
    }
    config = AutoConfig.for_model("fsmt", d_model=8, langs=["en", "de"], **small)
    with pytest.raises(
        ValueError,
        match=r"^`encoder_config` must describe a model with an encoder of texts, found 'fsmt', .*; use an ",
    ):
        BertForGRUFusionClassification(GRUFusionConfig(encoder_config=config, num_groups=2))


def test_a_model_around_an_encoder_is_no_encoder(tmp_path: Path) -> None:
    GRUFusionConfig(encoder_config=tiny_config("bert"), **SMALL).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"^`encoder_config` must describe an encoder, found the model 'gru_fusion'"
    ):
        BertWithPoolingModule.from_pretrained(tmp_path)


def test_setting_that_does_not_fit_the_encoder(tiny_encoder_dir: str) -> None:
    with pytest.raises(ValueError, match="found 3 groups for 4 layers"):
        BertForGRUFusionClassification.from_pretrained(tiny_encoder_dir, num_groups=3)


def test_no_path_of_this_machine_is_saved(tiny_encoder_dir: str, tmp_path: Path) -> None:
    BertForGRUFusionClassification.from_pretrained(tiny_encoder_dir, **SMALL).save_pretrained(tmp_path)
    assert Path(tiny_encoder_dir).name not in (tmp_path / "config.json").read_text()


def test_configuration_object_file_and_arguments(tiny_encoder_dir: str, tmp_path: Path) -> None:
    config = GRUFusionConfig(
        encoder_config=tiny_config("roberta", 2), num_labels=3, **SMALL | {"fusion": "cat"}
    )
    config.save_pretrained(tmp_path)
    for given in (config, str(tmp_path)):
        model = BertForGRUFusionClassification.from_pretrained(tiny_encoder_dir, config=given, dense_size=4)
        found = model.config
        assert (found.fusion, found.num_labels, found.dense_size, found.num_hidden_layers) == ("cat", 3, 4, 4)
        assert found.encoder_config.model_type == "bert"


def test_labels_and_dtype(tiny_encoder_dir: str) -> None:
    names = {0: "negative", 1: "neutral", 2: "positive"}
    model = BertForGRUFusionClassification.from_pretrained(
        tiny_encoder_dir, id2label=names, dtype=torch.float64, **SMALL
    )
    assert (model.config.num_labels, model.config.id2label) == (3, names)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


def test_loading_information(tiny_encoder_dir: str) -> None:
    model, info = BertForGRUFusionClassification.from_pretrained(
        tiny_encoder_dir, output_loading_info=True, **SMALL
    )
    assert info["missing_keys"] == {n for n in model.state_dict() if not n.startswith("model.encoder.")}


# --- initialization --------------------------------------------------------------------------------------------------


def assert_documented_distribution(model: nn.Module) -> None:
    """Glorot for dense layers, ±1/√units for recurrences, over everything but the encoder."""
    checked = set()
    for prefix, module in model.named_modules():
        if ".encoder" in prefix:
            continue
        if isinstance(module, nn.Linear):
            std = math.sqrt(2 / (module.in_features + module.out_features))
            error = 5 * std / math.sqrt(2 * module.weight.numel())
            assert abs(module.weight.std().item() - std) < error, prefix
            assert module.bias is None or not module.bias.any(), prefix
        elif isinstance(module, nn.GRU | nn.LSTM):
            bound = 1 / math.sqrt(module.hidden_size)
            values = torch.cat([parameter.flatten() for parameter in module.parameters()])
            assert values.abs().max() <= bound, prefix
            assert abs(values.std().item() - bound / math.sqrt(3)) < 0.1 * bound, prefix
        else:
            continue
        checked |= {f"{prefix}.{name}" for name, _ in module.named_parameters()}
    ours = {name: p for name, p in model.named_parameters() if ".encoder." not in name}
    for name in ours.keys() - checked:
        kind = name.rsplit(".", 1)[-1]
        assert kind in ("scalars", "scale", "query", "layer_embeddings", "edges"), name
        if kind in ("query", "layer_embeddings"):
            assert 0.01 < ours[name].std() < 0.03
        elif kind == "edges":
            depth = len(ours[name])
            torch.testing.assert_close(ours[name], torch.eye(depth) + 1 / depth)
        else:
            assert torch.equal(ours[name], torch.full_like(ours[name], float(kind == "scale")))


@pytest.mark.parametrize("case", CASES)
def test_new_weights_follow_the_documented_rule_and_the_seed(case: str, tiny_encoder_dir: str) -> None:
    models = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        models.append(model_class(case).from_pretrained(tiny_encoder_dir, **settings(case)))
    assert_documented_distribution(models[0])
    first, same, other = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["classifier.out_proj.weight"], other["classifier.out_proj.weight"])


@pytest.mark.parametrize("case", CASES)
def test_weights_that_our_checkpoint_lacks_are_drawn_not_left(
    case: str, tiny_encoder_dir: str, tmp_path: Path
) -> None:
    """`from_pretrained` builds on the meta device: what is missing would be whatever the memory holds."""
    model_class(case).from_pretrained(tiny_encoder_dir, **settings(case)).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    kept = {name: value for name, value in load_file(path).items() if ".encoder." in name}
    save_file(kept, path, metadata={"format": "pt"})
    model, info = model_class(case).from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"]
    assert_documented_distribution(model)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_base_model_and_classifier_load_each_other(tiny_encoder_dir: str, tmp_path: Path) -> None:
    base = GRUFusionModel.from_pretrained(tiny_encoder_dir, **SMALL | {"downstream_hidden_size": 6})
    base.save_pretrained(tmp_path)
    model, info = BertForGRUFusionClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert all(name.startswith(("downstream.", "classifier.")) for name in info["missing_keys"])
    assert all(torch.equal(v, base.state_dict()[n]) for n, v in model.model.state_dict().items())
    assert_documented_distribution(model)


def test_frozen_fuser_stays_frozen_and_random(tiny_encoder_dir: str, tmp_path: Path) -> None:
    model = BertForGRUFusionClassification.from_pretrained(tiny_encoder_dir, freeze_fusion=True, **SMALL)
    assert_documented_distribution(model)
    model.save_pretrained(tmp_path)
    for each in (model, BertForGRUFusionClassification.from_pretrained(tmp_path)):
        trainable = {name for name, parameter in each.named_parameters() if parameter.requires_grad}
        assert {n for n in each.state_dict() if n not in trainable} == {
            f"model.fuser.{n}" for n in each.model.fuser.state_dict()
        } | {n for n, _ in each.named_buffers()} & each.state_dict().keys()
        before = {name: value.clone() for name, value in each.state_dict().items()}
        optimizer = torch.optim.AdamW(each.parameters(), lr=0.1, weight_decay=0.1)
        each.train()(**inputs(), labels=torch.tensor([0, 1, 0])).loss.backward()
        optimizer.step()
        moved = {name for name, value in each.state_dict().items() if not torch.equal(value, before[name])}
        assert moved == trainable


# --- what a forward pass gives ---------------------------------------------------------------------------------------


def test_hidden_states_where_asked(tiny_encoder_dir: str) -> None:
    model = BertForGRUFusionClassification.from_pretrained(tiny_encoder_dir, **SMALL)
    batch = inputs()
    with torch.no_grad():
        expected = states_of(tiny_encoder_dir, batch)
        assert model(**batch).hidden_states is None
        listed = model(**batch, output_hidden_states=[0, -1]).hidden_states
        assert [state is None for state in listed] == [False, True, True, True, False]
        assert torch.equal(listed[0], expected[0])
        assert torch.equal(listed[-1], expected[-1])
        model.config.output_hidden_states = True
        assert len(model(**batch).hidden_states) == 5
        assert model(**batch, output_hidden_states=False).hidden_states is None
        assert len(model(**batch, return_dict=False)) == 2


def test_attentions_where_asked(tiny_encoder_dir: str) -> None:
    model = BertWithPoolingModule.from_pretrained(tiny_encoder_dir, attn_implementation="eager")
    assert model(**inputs()).attentions is None
    assert len(model(**inputs(), output_attentions=True).attentions) == 4


def test_embeddings_in_place_of_ids(tiny_encoder_dir: str) -> None:
    model = BertForGRUFusionClassification.from_pretrained(tiny_encoder_dir, **SMALL)
    batch = inputs()
    embeds = model.get_input_embeddings()(batch["input_ids"])
    found = model(inputs_embeds=embeds, attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(found, model(**batch).logits)


def test_larger_vocabulary(tiny_encoder_dir: str, tmp_path: Path) -> None:
    model = BertForGRUFusionClassification.from_pretrained(tiny_encoder_dir, **SMALL)
    model.resize_token_embeddings(400)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["encoder_config"]["vocab_size"] == 400
    loaded = BertForGRUFusionClassification.from_pretrained(tmp_path)
    assert loaded(torch.tensor([[399, 5]])).logits.shape == (1, 2)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "deberta-v2", "modernbert"])
def test_checkpointing_gives_equal_gradients(model_type: str, tmp_path: Path) -> None:
    AutoModel.from_config(tiny_config(model_type)).save_pretrained(tmp_path)
    model = BertForGRUFusionClassification.from_pretrained(tmp_path, classifier_dropout=0, **SMALL).train()
    gradients = []
    for switch in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        switch()
        model.zero_grad()
        model(**inputs_once(), labels=torch.tensor([0, 1, 0])).loss.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    assert model.model.encoder.is_gradient_checkpointing
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ({"num_labels": 1}, torch.tensor([0.5, 1.5, -1.0])),
        ({"num_labels": 3}, torch.tensor([0, 2, 1])),
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, torch.eye(3)),
    ],
)
def test_problem_types(settings: dict, labels: torch.Tensor, tiny_encoder_dir: str) -> None:
    models = [
        BertForGRUFusionClassification.from_pretrained(tiny_encoder_dir, **SMALL, **settings),
        BertWithPoolingModule.from_pretrained(tiny_encoder_dir, **settings),
    ]
    for model in models:
        output = model(**inputs(), labels=labels)
        logits = output.logits
        if settings["num_labels"] == 1:
            expected = ((logits[:, 0] - labels) ** 2).mean()
        elif labels.dtype == torch.long:
            expected = -logits.log_softmax(1)[range(3), labels].mean()
        else:
            expected = -(labels * logits.sigmoid().log() + (1 - labels) * (-logits).sigmoid().log()).mean()
        torch.testing.assert_close(output.loss, expected)
