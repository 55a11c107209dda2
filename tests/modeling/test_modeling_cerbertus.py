"""CerBERTus as a whole: what its tasks answer, learn, save and load."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    pipeline,
)

from hf_layerfusion import CerbertusForMultitask, CerbertusModel
from tests.modeling.multitask_cases import (
    DEPTH,
    LABELS,
    TASKS,
    WIDTH,
    batches,
    build,
    scramble,
    sequences,
    stock,
)
from tests.tiny import assert_close_values, assert_same_weights, tiny_config

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "multi": {"num_task_layers": 0},
    **{f"{k} head layers": {"num_task_layers": k} for k in range(1, DEPTH + 1)},
    "triple": {"encoders": ["own"], "num_task_layers": 0},
    "static + finetune": {"encoders": ["shared", "frozen"], "num_task_layers": 0},
    "multi + triple": {"encoders": ["shared", "own"], "num_task_layers": 0},
    "all": {"encoders": ["frozen", "own", "shared"], "num_task_layers": 1},
}
FUSED = {
    "a": {"labels": ["x", "y"], "fusion": {"fusion": "cat", "num_groups": 2, "fusion_hidden_size": 5}},
    "b": {"labels": ["x", "y"], "fusion": {"pooling": "attention"}},
    "c": {"labels": ["x", "y"], "sentence_vector": "mean"},
}


def logits_of(model: CerbertusForMultitask, task: str, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(task=task, **batch).logits


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_layers", range(DEPTH + 1))
def test_a_task_is_transformers_own_model_to_the_last_bit(num_layers: int) -> None:
    """Against separately assembled models, for every k; k = 0 is plain multi-task learning."""
    model = build(num_task_layers=num_layers)
    given = batches()
    with torch.no_grad():
        cls = stock(model, "sst5")(**given["sst5"]).last_hidden_state[:, 0]
        linear = model.heads["sst5"].head.classifier.out_proj
        assert torch.equal(logits_of(model, "sst5", given["sst5"]), F.linear(cls, linear.weight, linear.bias))

        cls = stock(model, "quora")(**given["quora"]).last_hidden_state[:, 0]
        linear = model.heads["quora"].head.classifier.out_proj
        logit = F.linear(cls, linear.weight, linear.bias)
        assert torch.equal(logits_of(model, "quora", given["quora"])[:, 1:], logit)
        assert not logits_of(model, "quora", given["quora"])[:, 0].any()

        vectors = []
        for side in (0, 1):
            states = stock(model, "sts")(**{name: value[:, side] for name, value in given["sts"].items()})[0]
            mask = given["sts"]["attention_mask"][:, side].unsqueeze(-1)
            vectors.append((states * mask).sum(1) / mask.sum(1))
        u, v = vectors
        linear = model.heads["sts"].head.classifier.out_proj
        expected = F.linear(torch.cat([u, v, (u - v) ** 2], dim=1), linear.weight, linear.bias)
        torch.testing.assert_close(logits_of(model, "sts", given["sts"]), expected, rtol=0, atol=1e-5)


def test_pooled_task_is_a_bert_for_sequence_classification(tmp_path: Path) -> None:
    reference = scramble(BertForSequenceClassification(tiny_config("bert", num_labels=3))).eval()
    reference.save_pretrained(tmp_path)
    tasks = {"a": {"labels": ["x", "y", "z"], "sentence_vector": "pooler"}, "b": {"labels": ["x", "y"]}}
    model = CerbertusForMultitask.from_pretrained(tmp_path, tasks=tasks, num_task_layers=1)
    model.heads["a"].head.classifier.out_proj.load_state_dict(reference.classifier.state_dict())
    batch = sequences(3, 6, [6, 4, 2])
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, reference(**batch).logits)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_joined_tasks_answer_as_each_alone(name: str) -> None:
    model = build(**ARCHITECTURES[name]).double()
    given = batches(labels=True)
    joined = model(tasks=given)
    for task, batch in given.items():
        alone = model(task=task, **batch)
        torch.testing.assert_close(joined.logits[task], alone.logits, rtol=0, atol=1e-12)
        torch.testing.assert_close(joined.losses[task], alone.loss)
    torch.testing.assert_close(joined.loss, sum(joined.losses.values()))


@pytest.mark.parametrize("tasks", [TASKS, FUSED], ids=["tasks", "fused"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_blind_to_padding(name: str, tasks: dict[str, Any]) -> None:
    model = build(**ARCHITECTURES[name], tasks=tasks).double()
    for task, head in model.heads.items():
        batch = sequences(4, 6, [6, 4, 5, 2])
        if head.task.is_siamese:
            batch = {key: value.view(2, 2, 6) for key, value in batch.items()}
        longer = {key: F.pad(value, (0, 3)) for key, value in batch.items()}
        longer["input_ids"] = torch.where(longer["attention_mask"] == 1, longer["input_ids"], 7)
        expected = logits_of(model, task, batch)
        torch.testing.assert_close(logits_of(model, task, longer), expected, rtol=0, atol=1e-12)


def test_the_same_texts_run_through_the_shared_layers_once() -> None:
    model = build(tasks=FUSED).double()
    batch = sequences(3, 5, [5, 4, 2])
    rows = []
    model.model.encoders["shared"].encoder.layer[0].register_forward_hook(
        lambda _, args, __: rows.append(len(args[0]))
    )
    with torch.no_grad():
        joined = model(tasks=dict.fromkeys(FUSED, batch)).logits
        assert rows == [3]
        for name in FUSED:
            torch.testing.assert_close(joined[name], model(task=name, **batch).logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("model_type", ["bert", "mpnet"])  # the latter returns its states by itself
def test_fusers_read_the_states_of_their_task(model_type: str) -> None:
    model = build(model_type, tasks=FUSED, num_task_layers=2).double()
    batch, other = sequences(3, 5), sequences(2, 5)
    seen: dict[str, Any] = {}
    for name in ("a", "b"):
        reader = model.heads[name].readers["shared"]
        reader.fuser.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0]))
    with torch.no_grad():
        model(tasks={"a": batch, "b": other, "c": batch})
        for name, given in (("a", batch), ("b", other)):
            expected = stock(model, name)(**given, output_hidden_states=True).hidden_states[1:]
            assert len(seen[name]) == DEPTH
            for state, wanted in zip(seen[name], expected, strict=True):
                torch.testing.assert_close(state, wanted, rtol=0, atol=1e-12)


def test_no_task_named_means_the_default_one() -> None:
    model = build(task_name="quora")
    batch = batches()["quora"]
    assert torch.equal(model(**batch).logits, logits_of(model, "quora", batch))
    assert not torch.equal(model(**batch).logits, logits_of(model, "sst5", batch)[:, :2])


def test_hidden_states_and_attentions_where_asked() -> None:
    model = build(encoders=["shared", "frozen"])
    batch = sequences(3, 5)
    with torch.no_grad():
        expected = stock(model, "sst5")(**batch, output_hidden_states=True).hidden_states
        assert model(**batch).hidden_states is None
        listed = model(**batch, output_hidden_states=[1, -1]).hidden_states
        assert [state is None for state in listed] == [True, False, True, True, False]
        assert torch.equal(listed[-1], expected[-1]) and torch.equal(listed[1], expected[1])
        assert len(model(**batch, return_dict=False)) == 1
        model.set_attn_implementation("eager")
        assert len(model(**batch, output_attentions=True).attentions) == DEPTH


def test_base_model_puts_encoders_side_by_side() -> None:
    model = build(encoders=["frozen", "shared"], num_task_layers=1)
    batch = sequences(3, 5)
    with torch.no_grad():
        found = model.model(task="quora", **batch).last_hidden_state
        assert torch.equal(found[..., WIDTH:], stock(model, "quora")(**batch).last_hidden_state)
        assert torch.equal(found[..., :WIDTH], model.model.encoders["frozen"](**batch).last_hidden_state)


def test_embeddings_in_place_of_ids() -> None:
    model = build()
    for task, batch in batches().items():
        embeds = model.get_input_embeddings()(batch["input_ids"])
        found = model(task=task, inputs_embeds=embeds, attention_mask=batch["attention_mask"]).logits
        torch.testing.assert_close(found, logits_of(model, task, batch))
    with pytest.raises(ValueError, match="`inputs_embeds` must be left out where there are 2 encoders"):
        build(encoders=["shared", "frozen"])(inputs_embeds=torch.randn(1, 3, WIDTH))


def test_what_cannot_be_answered() -> None:
    model = build()
    given = batches()
    with pytest.raises(ValueError, match=r"`task` must be one of \['sst5', 'quora', 'sts'\], found 'cola'"):
        model(task="cola", **given["sst5"])
    with pytest.raises(ValueError, match="found 'cola'"):
        model(tasks={"cola": given["sst5"]})
    with pytest.raises(ValueError, match="found 'cola'"):
        model.model(task="cola", **given["sst5"])
    with pytest.raises(ValueError, match="`tasks` must hold all inputs and labels"):
        model(tasks=given, labels=LABELS["sst5"])
    with pytest.raises(ValueError, match=r"the batch of task 'sst5' must hold .* found \['position_ids'\]"):
        model(tasks={"sst5": given["sst5"] | {"position_ids": torch.zeros(3, 7)}})
    with pytest.raises(ValueError, match="`tasks` must hold batches"):
        model(tasks={})
    embeds = {"inputs_embeds": torch.randn(2, 4, WIDTH)}
    with pytest.raises(ValueError, match=r"`tasks` must hold batches, .* found those of \['sst5', 'quora'\]"):
        model(tasks={"sst5": given["sst5"], "quora": embeds})
    with pytest.raises(ValueError, match=r"`input_ids` of task 'sts' must be \[B, 2, T\]"):
        model(task="sts", **given["sst5"])


def test_losses_only_where_there_are_labels() -> None:
    model = build()
    given = batches()
    assert model(tasks=given).loss is None and model(tasks=given).losses is None
    given["quora"]["labels"] = LABELS["quora"]
    output = model(tasks=given)
    assert output.loss is None and set(output.losses) == {"quora"} and set(output.logits) == set(TASKS)


# --- learning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["multi", "2 head layers", "4 head layers", "all"])
def test_gradient_on_every_weight_that_learns(name: str) -> None:
    model = build(**ARCHITECTURES[name], tasks=TASKS | FUSED).train()
    given = batches(labels=True)
    for task in FUSED:
        given[task] = sequences(3, 5) | {"labels": torch.tensor([0, 1, 1])}
    model(tasks=given).loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.requires_grad == (not key.startswith("model.encoders.frozen.")), key
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key
            # A first token's backward state has seen all others, its forward state none.
            assert parameter.grad.any() or "key.bias" in key or "weight_hh_l0" in key, key


def test_joined_gradients_are_the_sum_of_the_tasks_own() -> None:
    model = build(num_task_layers=2).double()
    given = batches(labels=True)

    def gradients(**call: Any) -> dict[str, torch.Tensor]:
        model.zero_grad()
        model(**call).loss.backward()
        return {
            n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()
        }

    joined = gradients(tasks=given)
    single = {task: gradients(task=task, **batch) for task, batch in given.items()}
    for name, gradient in joined.items():
        torch.testing.assert_close(gradient, sum(each[name] for each in single.values()), rtol=0, atol=1e-10)
        owners = [task for task in TASKS if f".{task}." in name]
        assert (
            all(each[name].any() == (task in owners) for task, each in single.items())
            or not owners
            or "key.bias" in name
        )


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "deberta-v2", "modernbert"])
def test_checkpointing_gives_equal_gradients(model_type: str) -> None:
    model = build(model_type).train()
    given = batches(labels=True)
    gradients = []
    for switch in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        switch()
        model.zero_grad()
        model(tasks=given).loss.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_the_frozen_encoder_stays_as_it_was(tiny_encoder_dir: str, tmp_path: Path) -> None:
    tasks = {"a": {"labels": ["x", "y"], "sentence_vector": "pooler"}}
    model = CerbertusForMultitask.from_pretrained(
        tiny_encoder_dir, encoders=["shared", "frozen"], tasks=tasks
    )
    model.save_pretrained(tmp_path)
    frozen = {
        *(f"model.encoders.frozen.{name}" for name in model.model.encoders["frozen"].state_dict()),
        *(f"heads.a.readers.frozen.vector.dense.{name}" for name in ("weight", "bias")),
    }
    for each in (model, CerbertusForMultitask.from_pretrained(tmp_path)):
        each.train()
        assert all(module.training for module in each.model.encoders["shared"].modules())
        assert not any(module.training for module in each.model.encoders["frozen"].modules())
        before = {name: value.clone() for name, value in each.state_dict().items()}
        optimizer = torch.optim.AdamW(each.parameters(), lr=0.1, weight_decay=0.1)
        each(**sequences(3, 5), labels=torch.tensor([0, 1, 0])).loss.backward()
        optimizer.step()
        assert {
            name for name, value in each.state_dict().items() if torch.equal(value, before[name])
        } == frozen


# --- loading and saving ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("bert", "2 head layers"),
        ("bert", "all"),
        ("distilbert", "2 head layers"),
        ("modernbert", "multi + triple"),
    ],
)
def test_every_copy_starts_as_the_pretrained_weights(model_type: str, name: str, tmp_path: Path) -> None:
    encoder = scramble(AutoModel.from_config(tiny_config(model_type))).eval()
    encoder.save_pretrained(tmp_path)
    model = CerbertusForMultitask.from_pretrained(tmp_path, tasks=TASKS, **ARCHITECTURES[name])
    assert not model.training
    batch = sequences(3, 5, [5, 3, 2])
    kinds = ARCHITECTURES[name].get("encoders", ["shared"])
    with torch.no_grad():
        expected = encoder(**batch).last_hidden_state
        for task in TASKS:
            found = model.model(task=task, **batch).last_hidden_state
            assert torch.equal(found, torch.cat([expected] * len(kinds), dim=-1))
    pointers = [parameter.data_ptr() for parameter in model.parameters()]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize("name", ["2 head layers", "all"])
def test_saved_as_a_whole_and_loaded_to_the_last_bit(name: str, tmp_path: Path) -> None:
    model = build(**ARCHITECTURES[name], tasks=TASKS | FUSED)
    model.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    stored = load_file(tmp_path / "model.safetensors")
    state = model.state_dict()
    assert stored.keys() == state.keys()
    assert sum(value.numel() for value in stored.values()) == sum(value.numel() for value in state.values())
    loaded, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert type(loaded) is CerbertusForMultitask
    assert_same_weights(loaded, model)
    for task, batch in batches().items():
        assert_close_values(logits_of(loaded, task, batch), logits_of(model, task, batch))
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is CerbertusModel
    assert all(torch.equal(value, state[f"model.{key}"]) for key, value in base.state_dict().items())


def test_another_default_task_by_name(tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path)
    for task in ("quora", "sts"):
        batch = batches()[task]
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, task_name=task)
        assert_close_values(loaded(**batch).logits, logits_of(model, task, batch))
        assert loaded.config.id2label == dict(enumerate(TASKS[task].get("labels") or [task]))
        assert loaded.num_labels == loaded.config.num_labels
    with pytest.raises(ValueError, match="`task_name` must be one of"):
        CerbertusForMultitask.from_pretrained(tmp_path, task_name="cola")


def test_checkpoints_that_lack_weights_of_an_encoder(tmp_path: Path) -> None:
    build(num_task_layers=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"must hold every weight of its encoder.*copies"):
        CerbertusForMultitask.from_pretrained(tmp_path, num_task_layers=2)
    path = tmp_path / "model.safetensors"
    kept = {name: value for name, value in load_file(path).items() if ".copies.sts." not in name}
    save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"must hold every weight of its encoder.*copies\.sts") as error:
        CerbertusForMultitask.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)
    _, info = CerbertusForMultitask.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] and all(".copies.sts." in name for name in info["missing_keys"])


def test_other_labels_than_the_checkpoints(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)
    tasks = TASKS | {"sst5": {**TASKS["sst5"], "labels": ["bad", "good"]}}
    model = CerbertusForMultitask.from_pretrained(tmp_path, tasks=tasks)
    assert model(**batches()["sst5"]).logits.shape == (3, 2)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_heads_that_the_checkpoint_lacks_are_drawn_not_left(tmp_path: Path) -> None:
    """`from_pretrained` builds on the meta device: what is missing would be whatever the memory holds."""
    tasks = TASKS | FUSED
    tasks["sst5"] = {
        **tasks["sst5"],
        "sentence_vector": "multiplicative_attention",
        "vector_layers": 2,
        "dense_size": 9,
    }
    tasks["quora"] = {**tasks["quora"], "sentence_vector": "pooler"}
    tasks["sts"] = {**tasks["sts"], "features": ["cross_attention"]}
    build(tasks=tasks).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    kept = {name: value for name, value in load_file(path).items() if not name.startswith("heads.")}
    save_file(kept, path, metadata={"format": "pt"})
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(CerbertusForMultitask.from_pretrained(tmp_path).heads.state_dict())
    first, same, other = models
    assert all(torch.equal(first[name], same[name]) for name in first)
    for name, value in first.items():
        assert value.isfinite().all() and value.abs().max() < 2, name
        assert (name.endswith(("bias", "scalars", "scale")) and "rnn" not in name) or not torch.equal(
            value, other[name]
        ), name


def test_poolers_start_as_the_pretrained_one_or_are_learned(tmp_path: Path) -> None:
    tasks = {"a": {"labels": ["x", "y"], "sentence_vector": "pooler"}, "b": {"labels": ["x", "y"]}}
    encoder = scramble(AutoModel.from_config(tiny_config("bert")))
    encoder.save_pretrained(tmp_path / "with")
    AutoModel.from_config(tiny_config("roberta"), add_pooling_layer=False).save_pretrained(
        tmp_path / "without"
    )
    model = CerbertusForMultitask.from_pretrained(tmp_path / "with", tasks=tasks, encoders=["shared", "own"])
    for kind in ("shared", "own"):
        assert torch.equal(model.heads["a"].readers[kind].vector.dense.weight, encoder.pooler.dense.weight)
    assert not [name for name in model.model.state_dict() if "pooler" in name]
    assert CerbertusForMultitask.from_pretrained(tmp_path / "without", tasks=tasks).heads["a"]
    with pytest.raises(ValueError, match=r"must hold every weight of its encoder.*pooler"):
        CerbertusForMultitask.from_pretrained(tmp_path / "without", tasks=tasks, encoders=["frozen"])
    AutoModel.from_config(tiny_config("electra")).save_pretrained(tmp_path / "none")
    with pytest.raises(ValueError, match="`sentence_vector` must not be 'pooler' where a frozen encoder"):
        CerbertusForMultitask.from_pretrained(tmp_path / "none", tasks=tasks, encoders=["frozen"])


def test_albert_shares_its_layers_anyhow(tmp_path: Path) -> None:
    AutoModel.from_config(tiny_config("albert")).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`num_task_layers` must be 0 for 'albert'"):
        CerbertusForMultitask.from_pretrained(tmp_path, tasks=TASKS, num_task_layers=1)
    model = CerbertusForMultitask.from_pretrained(tmp_path, tasks=TASKS, encoders=["shared", "own"])
    assert model(tasks=batches(labels=True)).loss.isfinite()


def test_pretrained_weights(encoder_dir: str) -> None:
    model = CerbertusForMultitask.from_pretrained(encoder_dir, tasks=TASKS, num_task_layers=2)
    batch = AutoTokenizer.from_pretrained(encoder_dir)(
        ["a fine day", "no"], padding=True, return_tensors="pt"
    )
    expected = AutoModel.from_pretrained(encoder_dir)(**batch).last_hidden_state
    for task in TASKS:
        assert torch.equal(model.model(task=task, **batch).last_hidden_state, expected)


def test_loading_information(tiny_encoder_dir: str) -> None:
    model, info = CerbertusForMultitask.from_pretrained(
        tiny_encoder_dir,
        tasks=TASKS,
        num_task_layers=1,
        encoders=["shared", "frozen"],
        output_loading_info=True,
    )
    assert info["missing_keys"] == {f"heads.{name}" for name in model.heads.state_dict()}


def test_no_path_of_this_machine_is_saved(tiny_encoder_dir: str, tmp_path: Path) -> None:
    CerbertusForMultitask.from_pretrained(tiny_encoder_dir, tasks=TASKS).save_pretrained(tmp_path)
    assert Path(tiny_encoder_dir).name not in (tmp_path / "config.json").read_text()


def test_attention_is_chosen_for_every_encoder_and_copy(tiny_encoder_dir: str) -> None:
    model = CerbertusForMultitask.from_pretrained(
        tiny_encoder_dir, tasks=TASKS, encoders=["shared", "own", "frozen"], num_task_layers=1
    )
    given = batches()["sst5"]
    sdpa = logits_of(model, "sst5", given)
    model.set_attn_implementation("eager")
    chosen = {module.config._attn_implementation for module in model.modules() if hasattr(module, "config")}
    assert chosen == {"eager"}
    torch.testing.assert_close(logits_of(model, "sst5", given), sdpa, rtol=0, atol=1e-5)


def test_larger_vocabulary_in_every_encoder(tmp_path: Path) -> None:
    model = build(encoders=["shared", "own", "frozen"], num_task_layers=0)
    model.resize_token_embeddings(400)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["encoder_config"]["vocab_size"] == 400
    loaded = CerbertusForMultitask.from_pretrained(tmp_path)
    assert loaded(tasks={"sst5": {"input_ids": torch.tensor([[399, 5]])}}).logits["sst5"].shape == (1, 5)


def test_copies_of_a_used_model() -> None:
    model = build(tasks=FUSED)
    batch = sequences(2, 4)
    with torch.no_grad():
        expected = model(**batch, output_hidden_states=True)
        found = copy.deepcopy(model)(**batch, output_hidden_states=True)
    assert len(found.hidden_states) == DEPTH + 1
    assert torch.equal(found.logits, expected.logits)


# --- views -----------------------------------------------------------------------------------------------------------


def test_a_view_is_the_same_model_with_another_default_task() -> None:
    model = build()
    given = batches()
    for task in TASKS:
        view = model.task(task)
        assert torch.equal(view(**given[task]).logits, logits_of(model, task, given[task]))
        assert (view.config.default_task, model.config.default_task) == (task, "sst5")
        assert (view.num_labels, model.num_labels) == (view.config.num_labels, 5)
        assert all(a is b for a, b in zip(view.parameters(), model.parameters(), strict=True))
    with pytest.raises(ValueError, match="`task_name` must be one of"):
        model.task("cola")


def test_views_in_text_classification_pipelines(tiny_encoder_dir: str) -> None:
    model = build()
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder_dir)
    batch = tokenizer("a good day", return_tensors="pt")
    answer = pipeline("text-classification", model=model.task("sst5"), tokenizer=tokenizer)("a good day")[0]
    scores = logits_of(model, "sst5", batch).softmax(-1)[0]
    assert answer["label"] == TASKS["sst5"]["labels"][scores.argmax()]
    assert answer["score"] == pytest.approx(scores.max().item(), abs=1e-6)

    pair = {"text": "a good day", "text_pair": "bad"}
    answer = pipeline("text-classification", model=model.task("quora"), tokenizer=tokenizer)(pair)
    p = logits_of(model, "quora", tokenizer(**pair, return_tensors="pt"))[0, 1].sigmoid().item()
    assert answer["score"] == pytest.approx(max(p, 1 - p), abs=1e-6)
    assert answer["label"] == ("yes" if p > 0.5 else "no")

    with pytest.raises(ValueError, match=r"encoded each text by itself.*MultitaskPipeline of hf_layerfusion"):
        pipeline("text-classification", model=model.task("sts"), tokenizer=tokenizer)(pair)
