from __future__ import annotations

import json
from dataclasses import asdict, replace
from math import exp, log1p

import numpy as np
import pytest
import torch
from scipy.stats import t
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from hf_layerfusion.evaluation.layer_use import (
    LayerUse,
    _loss_by_text,
    cls_states,
    layer_use,
    logits_without_layers,
    mean_states,
)
from hf_layerfusion.modeling.fusion_pooling import SENTENCE_FUSERS
from hf_layerfusion.modeling.fusion_registry import TOKEN_FUSERS
from tests.modeling.cases import DEPTH, WIDTH, build, inputs
from tests.tiny import tiny_config


class ToyEncoder(nn.Module):
    """Puts out its input, `[B, T, 3]`, as three layers of width 1."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, inputs):
        self.calls += 1
        states = (torch.full_like(inputs[..., :1], 99.0), *inputs.split(1, dim=-1))
        return BaseModelOutput(last_hidden_state=states[-1], hidden_states=states)


class ToyFuser(nn.Module):
    """The sum of layers 1 and 2 of three."""

    layers = (1, 0)

    def forward(self, hidden_states, attention_mask):
        return hidden_states[1] + hidden_states[0]


class FirstTokenFuser(ToyFuser):
    def text_vector(self, state, attention_mask):
        return state[:, 0]

    def forward(self, hidden_states, attention_mask):
        vectors = [self.text_vector(hidden_states[layer], attention_mask) for layer in self.layers]
        return sum(vectors).unsqueeze(1)


class MeanTokenFuser(FirstTokenFuser):
    def text_vector(self, state, attention_mask):
        real = attention_mask.unsqueeze(-1)
        return (state * real).sum(dim=1) / real.sum(dim=1)


class WeightedFuser(ToyFuser):
    """Weighs the two layers by their size at the first token; the higher layer stands first in `layers`."""

    def layer_weights(self, hidden_states, attention_mask):
        sizes = torch.stack([hidden_states[layer][:, 0, 0].abs() for layer in self.layers], dim=1)
        return sizes / sizes.sum(dim=1, keepdim=True)


class ToyModel(PreTrainedModel):
    """Logits 0 and z, with z the sum of two layers, of the fuser's one vector or as a mean over the real tokens."""

    config_class = PreTrainedConfig

    def __init__(self, fuser=None):
        super().__init__(PreTrainedConfig(id2label={0: "no", 1: "yes"}))
        self.encoder = ToyEncoder()
        self.fuser = fuser or ToyFuser()
        self.dropout = nn.Dropout(0.5)
        self.breaks_at = None
        self.unit = nn.Parameter(torch.ones(1))

    def forward(self, inputs, attention_mask, labels=None, return_dict=None):
        fused = self.fuser(self.encoder(inputs).hidden_states[1:], attention_mask)[..., 0]
        if self.breaks_at == fused.sum().item():
            raise RuntimeError("broken head")
        real = attention_mask[:, : fused.shape[1]]
        z = (fused * real).sum(dim=1) / real.sum(dim=1)
        z = self.dropout(self.unit * z)
        logits = torch.stack([torch.zeros_like(z), z], dim=1)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits, labels) if labels.dtype == torch.long else F.mse_loss(z, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def toy_batches(dtype=torch.long):
    """A text of two tokens (class 1) and one of a token and padding (class 0), a batch each."""
    return [
        {
            "inputs": torch.tensor([[[2.0, 1.0, 5.0], [4.0, 1.0, 6.0]]]),
            "attention_mask": torch.tensor([[1, 1]]),
            "labels": torch.tensor([1], dtype=dtype),
        },
        {
            "inputs": torch.tensor([[[-3.0, 1.0, 7.0], [100.0, 100.0, 100.0]]]),
            "attention_mask": torch.tensor([[1, 0]]),
            "labels": torch.tensor([0], dtype=dtype),
        },
    ]


def loss(z_yes, z_no):
    """Cross-entropy of the two texts: the first is of class 1, the second of class 0."""
    return (log1p(exp(-z_yes)) + log1p(exp(z_no))) / 2


@pytest.mark.parametrize(
    ("fuser", "z_yes", "mean"),
    [
        (ToyFuser, 4.0, 1.0),  # z: (2 + 4) / 2 + 1; layer 1's mean over three real tokens: (2 + 4 - 3) / 3
        (FirstTokenFuser, 3.0, -0.5),  # z: 2 + 1; over two first tokens: (2 - 3) / 2
        (MeanTokenFuser, 4.0, 0.0),  # over two texts: (3 - 3) / 2
    ],
)
def test_ablation_by_hand(fuser, z_yes, mean):
    use = layer_use(ToyModel(fuser()), toy_batches())
    # With layer 1 at its mean both texts get z = mean + 1 > 0: the first stays right, the second turns wrong.
    assert use.num_texts == 2
    assert use.accuracy == 1.0
    assert use.accuracy_drop == [0.5, 0.0, 0.0]
    assert use.loss == pytest.approx(loss(z_yes, -2.0))
    assert use.loss_rise == pytest.approx([loss(mean + 1, mean + 1) - loss(z_yes, -2.0), 0.0, 0.0], abs=1e-7)
    assert use.weights is None
    assert use.weights_by_class == {}


def test_weights_by_layer_and_class():
    # Layer 2 and layer 1 at the first token: 1 and 2 of the first text, 1 and 3 of the second.
    use = layer_use(ToyModel(WeightedFuser()), toy_batches())
    assert use.weights == pytest.approx([(2 / 3 + 3 / 4) / 2, (1 / 3 + 1 / 4) / 2, 0.0])
    assert use.weights_by_class.keys() == {"no", "yes"}
    assert use.weights_by_class["yes"] == pytest.approx([2 / 3, 1 / 3, 0.0])
    assert use.weights_by_class["no"] == pytest.approx([3 / 4, 1 / 4, 0.0])
    assert layer_use(ToyModel(WeightedFuser()), toy_batches(), by_class=False).weights_by_class == {}


def test_a_regression_has_no_accuracy():
    use = layer_use(ToyModel(WeightedFuser()), toy_batches(torch.float))
    assert use.accuracy is None
    assert use.accuracy_drop is None
    # z is 4 and -2, with layer 1 at its mean 2 and 2; the targets are 1 and 0.
    assert use.loss == pytest.approx((9 + 4) / 2)
    assert use.loss_rise == pytest.approx([(1 + 4) / 2 - (9 + 4) / 2, 0.0, 0.0])
    assert use.weights_by_class == {}
    assert use.ranking() == [2, 3, 1]


def test_the_intervals_are_those_of_the_texts_own_differences():
    # Of two texts one turns wrong without layer 1 and none without layer 2; layer 3 is not used. Agresti and Min add
    # half a text to each of the four cells.
    use = layer_use(ToyModel(), toy_batches())
    assert use.accuracy_drop_error == pytest.approx([1.959964 * (2 - 1 / 4) ** 0.5 / 4, 1.959964 / 4, 0.0])
    changes = [log1p(exp(-2)) - log1p(exp(-4)), log1p(exp(2)) - log1p(exp(-2))]
    half = t.ppf(0.975, 1) * np.std(changes, ddof=1) / 2**0.5
    assert use.loss_rise_error == pytest.approx([half, 0.0, 0.0])
    assert layer_use(ToyModel(), toy_batches(torch.float)).accuracy_drop_error is None
    one = layer_use(ToyModel(), toy_batches()[:1])
    assert one.loss_rise_error is None and one.accuracy_drop_error[0] > 0


def test_the_losses_of_texts_have_the_mean_of_the_models_loss():
    logits, labels = torch.tensor([[1.0, -2.0], [0.5, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    mean = F.binary_cross_entropy_with_logits(logits, labels)
    assert _loss_by_text(logits, labels).mean() == pytest.approx(mean)
    values = torch.tensor([1.5, -1.0])
    assert _loss_by_text(logits[:, :1], values).tolist() == pytest.approx([0.25, 2.25])


def test_the_encoder_runs_once_a_batch_and_pass():
    model = ToyModel()
    layer_use(model, toy_batches())
    assert model.encoder.calls == 2 * 2


# Sums over the tokens of the first batch: as it is (2 + 1 + 4 + 1), and with layer 1 at its mean (1 + 1 + 1 + 1).
@pytest.mark.parametrize("breaks_at", [None, 8.0, 4.0])
def test_the_model_is_left_as_it_was(breaks_at):
    model = ToyModel().train()
    model.dropout.eval()
    encoder = model.encoder
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.breaks_at = breaks_at
    if breaks_at is None:
        layer_use(model, toy_batches())
    else:
        with pytest.raises(RuntimeError, match="broken head"):
            layer_use(model, toy_batches())
    assert model.encoder is encoder
    assert [name for name, _ in model.named_children()] == ["encoder", "fuser", "dropout"]
    assert model.training
    assert model.fuser.training
    assert not model.dropout.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.is_grad_enabled()
    assert model.unit.grad is None


def test_bad_input():
    with pytest.raises(ValueError, match="readable twice, found an iterator"):
        layer_use(ToyModel(), iter(toy_batches()))
    with pytest.raises(ValueError, match="at least one text, found none"):
        layer_use(ToyModel(), [])
    with pytest.raises(ValueError, match=r"'labels', found \['attention_mask', 'inputs'\]"):
        layer_use(ToyModel(), [{k: v for k, v in batch.items() if k != "labels"} for batch in toy_batches()])
    plain = AutoModel.from_config(tiny_config("bert", 1))
    with pytest.raises(ValueError, match="found 0 in BertModel"):
        layer_use(plain, toy_batches())


USE = LayerUse(
    num_texts=8,
    loss=0.5,
    accuracy=0.75,
    loss_rise=[0.25, 0.5, 0.0, 1.0, 0.0],
    accuracy_drop=[0.125, 0.125, 0.0, -0.125, 0.0],
    weights=[0.25, 0.5, 0.25, 0.0, 0.0],
    weights_by_class={"yes": [0.0, 1.0, 0.0, 0.0, 0.0]},
)


def test_ranking_goes_by_accuracy_then_by_loss_then_by_depth():
    assert USE.ranking() == [2, 1, 3, 5, 4]


def test_table_and_json():
    header, rows = USE.table()
    assert header == ["Layer", "Drop in accuracy, points", "Rise in loss", "Weight, %", "Weight, %, yes"]
    assert rows[1] == ["2", "12.50", "0.5000", "50.0", "100.0"]
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5"]
    header, rows = LayerUse(8, 0.5, None, [0.25], None).table()
    assert (header, rows) == (["Layer", "Rise in loss"], [["1", "0.2500"]])
    assert LayerUse(**json.loads(json.dumps(asdict(USE)))) == USE
    _, rows = replace(USE, loss_rise_error=[0.5] * 5, accuracy_drop_error=[0.0625] * 5).table()
    assert rows[1][1:3] == ["12.50 ± 6.25", "0.5000 ± 0.5000"]


class PlantedEncoder(nn.Module):
    """Layers of noise, drawn from the token ids; one also holds, at every token, plus or minus a direction by the
    label, which comes in as `token_type_ids`. The noise says nothing of the label."""

    def __init__(self, planted):
        super().__init__()
        self.noise = nn.ModuleList(nn.Embedding(100, WIDTH) for _ in range(DEPTH + 1)).requires_grad_(False)
        self.direction = torch.randn(WIDTH)
        self.planted = planted

    def forward(self, input_ids, token_type_ids, **kwargs):
        states = [noise(input_ids) for noise in self.noise]
        signs = 2 * token_type_ids.unsqueeze(-1) - 1
        states[self.planted] = states[self.planted] + signs * self.direction
        return BaseModelOutput(last_hidden_state=states[-1], hidden_states=tuple(states))


def planted_batch(size, length=5):
    labels = torch.arange(size) % 2
    lengths = torch.randint(2, length + 1, (size, 1))
    return {
        "input_ids": torch.randint(100, (size, length)),
        "attention_mask": (torch.arange(length) < lengths).long(),
        "token_type_ids": labels[:, None].expand(size, length),
        "labels": labels,
    }


ROWS = [("fusion", name) for name in TOKEN_FUSERS] + [("pooling", name) for name in SENTENCE_FUSERS]


@pytest.mark.parametrize("end", ["lowest", "highest"])
@pytest.mark.parametrize(("table", "name"), ROWS, ids=[f"{table}-{name}" for table, name in ROWS])
def test_the_layer_that_holds_the_label_ranks_first(table, name, end):
    """Planted at either end of what the fuser reads, found on texts that it was not trained on."""
    model = build(f"{name}-gru" if table == "fusion" else f"{name}-cls", num_labels=2, classifier_dropout=0.0)
    read = sorted(model.model.fuser.layers)
    planted = 1 + (read[0] if end == "lowest" else read[-1])
    model.model.encoder = PlantedEncoder(planted)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(40):
        model(**planted_batch(32)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    use = layer_use(model, [planted_batch(64), planted_batch(64)])
    assert use.accuracy > 0.9
    assert use.ranking()[0] == planted
    assert use.accuracy_drop[planted - 1] > 0.3
    if name == "scalar_mix":
        assert np.argmax(use.weights) == planted - 1
    elif name in ("attention", "attentive"):
        assert use.weights_by_class.keys() == {"LABEL_0", "LABEL_1"}
    else:
        assert use.weights is None
    unread = set(range(DEPTH)) - set(read)
    assert all(use.accuracy_drop[layer] == use.loss_rise[layer] == 0 for layer in unread)


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("share-gru", {}),
        ("share-gru", {"residual_head": "mean"}),
        ("concat-cls_mean", {}),
        ("attentive-mean", {}),
        ("concat-mean", {"residual_head": "mean"}),
        ("last-cls", {}),
        ("concat-mean", {"pair_features": ["concat", "product"]}),
    ],
)
def test_states_in_place_of_ids_give_the_same_use(case, changes):
    """Without a run of the encoder."""
    model = build(case, **changes)
    if "residual_head" in changes:
        torch.nn.init.normal_(model.classifier.out_proj.weight)
    pairs = "pair_features" in changes
    sizes = (5, 3)
    batches, cached = [], []
    for size in sizes:
        batch = inputs(2 * size if pairs else size)
        with torch.no_grad():
            states = model.model.read_states(**batch)
        tokens = states.shape[2]
        mask = (
            batch["attention_mask"]
            if tokens == batch["input_ids"].shape[1]
            else torch.ones(len(states), tokens)
        )
        for given in (batch, states_batch := {"encoder_states": states, "attention_mask": mask}):
            if pairs:
                given.update({name: value.unflatten(0, (size, 2)) for name, value in given.items()})
            given["labels"] = torch.arange(size) % 3
        batches.append(batch)
        cached.append(states_batch)
    expected = layer_use(model, batches)
    model.model.encoder.forward = None  # any run of it would fail
    found = layer_use(model, cached)
    assert max(map(abs, expected.loss_rise)) > 1e-4
    assert found.loss_rise == pytest.approx(expected.loss_rise, abs=1e-6)
    assert found.loss == pytest.approx(expected.loss, abs=1e-6)
    assert found.weights == (
        expected.weights if expected.weights is None else pytest.approx(expected.weights)
    )
    assert (found.num_texts, found.accuracy_drop) == (sum(sizes), expected.accuracy_drop)


def test_a_residual_head_reads_the_last_layer_too():
    model = build("concat-mean", residual_head="mean")  # whose fusion branch adds nothing yet
    use = layer_use(model, [planted_batch(16)])
    assert use.loss_rise[:-1] == [0.0] * (DEPTH - 1)
    assert abs(use.loss_rise[-1]) > 1e-4


def test_cls_states_are_the_first_real_tokens_states():
    model = build("lstm-cls").train()
    batches = [planted_batch(3), planted_batch(2)]
    batches[1]["attention_mask"] = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    states = cls_states(model, batches, [1, -1])
    assert states.shape == (5, 2, WIDTH)
    assert model.training
    encoder = model.model.encoder.eval()
    inputs = {name: batches[1][name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        expected = encoder(**inputs, output_hidden_states=True).hidden_states
    for column, layer in enumerate((1, DEPTH)):
        first = torch.stack([expected[layer][0, 2], expected[layer][1, 0]])
        np.testing.assert_allclose(states[3:, column], first, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="at least one text"):
        cls_states(model, [], [1])


def test_logits_without_a_layer_have_its_mean_over_other_texts():
    model = ToyModel(WeightedFuser())
    text = {"inputs": torch.tensor([[[1.0, 4.0, 9.0], [3.0, 8.0, 9.0]]]), "attention_mask": torch.ones(1, 2)}
    others = [{"inputs": torch.tensor([[[10.0, 30.0, 7.0]]]), "attention_mask": torch.ones(1, 1)}]
    means = mean_states(model, others)
    assert {number: mean.tolist() for number, mean in means.items()} == {1: [10.0], 2: [30.0]}
    found = logits_without_layers(model, text, means)
    assert found.whole.tolist() == [[0.0, 2.0 + 6.0]]
    assert {number: logits.tolist() for number, logits in found.without.items()} == {
        1: [[0.0, 10.0 + 6.0]],
        2: [[0.0, 2.0 + 30.0]],
    }
    assert found.weights is not None
    assert {number: weight.tolist() for number, weight in found.weights.items()} == {
        1: [pytest.approx(0.2)],
        2: [pytest.approx(0.8)],
    }
    assert logits_without_layers(ToyModel(), text, means).weights is None
    with pytest.raises(ValueError, match="one submodule"):
        mean_states(nn.Linear(1, 1), others)
