from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LNTuningConfig, LoHaConfig, LoraConfig, PeftModel, PromptTuningConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from hf_layerfusion import (
    BertForGRUFusionClassification,
    BertWithPoolingModule,
    CerbertusForMultitask,
    MultitaskPipeline,
)
from hf_layerfusion.errors import UserError
from hf_layerfusion.training.adapters import AdaptedModel, add_adapters, load_adapter_model
from hf_layerfusion.training.parameter_parts import EMBEDDINGS, HEAD, LAYER, TOP, parameter_parts
from hf_layerfusion.training.training_arguments import CHECKPOINTING
from tests.tiny import MODEL_TYPES, VOCABULARY, tiny_config, tiny_tokenizer
from tests.training.small import rows, small_trainer, weights_digest
from tests.training.small_tasks import tasks_trainer

TASKS: dict[str, Any] = {
    "five": {"labels": ["a", "b", "c", "d", "e"]},
    "para": {"pair": True, "labels": ["no", "yes"]},
    "sim": {"pair": True, "pair_encoding": "siamese", "features": ["concat"], "problem_type": "regression"},
}


def batch(*shape: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, len(VOCABULARY), shape or (3, 7))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@torch.no_grad()
def logits(model: Any, **inputs: Any) -> torch.Tensor:
    return model.eval()(**inputs).logits


@torch.no_grad()
def shaken(model: Any) -> Any:
    """As if trained: all that is trained is somewhere else."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def classifier(kind: str, folder: str, **settings: Any) -> Any:
    """A classifier of three classes with a fuser and head drawn at random."""
    if kind == "gru_fusion":
        return BertForGRUFusionClassification.from_pretrained(
            folder, **{"num_groups": 2, "num_labels": 3} | settings
        )
    if kind == "attention":
        return BertWithPoolingModule.from_pretrained(folder, pooling="attention", num_labels=3, **settings)
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, **settings)


def cerbertus(folder: str, **settings: Any) -> CerbertusForMultitask:
    return CerbertusForMultitask.from_pretrained(folder, tasks=TASKS, **({"num_task_layers": 2} | settings))


@pytest.fixture
def saved(tmp_path: Path, tiny_encoder_dir: str) -> tuple[AdaptedModel, str]:
    """A GRUBERT with a shaken adapter, and its folder."""
    model = BertForGRUFusionClassification.from_pretrained(tiny_encoder_dir, num_groups=2, num_labels=3)
    adapted = shaken(add_adapters(model))
    adapted.save_pretrained(str(tmp_path / "adapter"))
    return adapted, str(tmp_path / "adapter")


# What is adapted, trained and saved


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_adapters_stand_in_the_layers_of_every_encoder_and_come_back(model_type: str, tmp_path: Path) -> None:
    AutoModel.from_config(tiny_config(model_type)).save_pretrained(tmp_path / "encoder")
    model = BertForGRUFusionClassification.from_pretrained(tmp_path / "encoder", num_groups=2, num_labels=3)
    pretrained = {id(parameter) for parameter in model.model.encoder.parameters()}
    adapted = shaken(add_adapters(model, LoraConfig(r=2)))
    places = [name for name, module in adapted.named_modules() if isinstance(module, BaseTunerLayer)]
    assert places
    assert all(re.match(r"base_model\.model\.model\.encoder\.(.*\.)?\d+\.", name) for name in places)
    assert not any(parameter.requires_grad for parameter in model.parameters() if id(parameter) in pretrained)
    inputs = batch()
    adapted.save_pretrained(str(tmp_path / "adapter"))
    assert torch.equal(logits(adapted, **inputs), logits(load_adapter_model(tmp_path / "adapter"), **inputs))


@pytest.mark.parametrize("kind", ["gru_fusion", "attention", "plain", "cerbertus"])
def test_all_but_the_pretrained_encoder_is_trained_and_saved(kind: str, tiny_encoder_dir: str) -> None:
    model = cerbertus(tiny_encoder_dir) if kind == "cerbertus" else classifier(kind, tiny_encoder_dir)
    encoder_layers = re.compile(r"(^|\.)(embeddings|layer)\.")
    beside = {name for name, _ in model.named_parameters() if not encoder_layers.search(name)}
    assert beside
    adapted = add_adapters(model)
    wrapped = [
        name.removeprefix("base_model.model.")
        for name, module in adapted.named_modules()
        if isinstance(module, ModulesToSaveWrapper)
    ]
    assert {name for name in beside if not name.startswith(tuple(f"{each}." for each in wrapped))} == set()


@pytest.mark.parametrize("kind", ["gru_fusion", "attention", "plain"])
def test_reload_by_every_way_and_merge(kind: str, tmp_path: Path, tiny_encoder_dir: str) -> None:
    folder, merged_folder, inputs = str(tmp_path / "adapter"), str(tmp_path / "merged"), batch()
    adapted = shaken(add_adapters(classifier(kind, tiny_encoder_dir)))
    adapted.save_pretrained(folder)
    expected = logits(adapted, **inputs)
    # By peft alone, on a base whose fuser and head were drawn anew.
    by_peft = PeftModel.from_pretrained(classifier(kind, tiny_encoder_dir), folder, is_trainable=True)
    assert torch.equal(logits(by_peft, **inputs), expected)
    # By transformers alone, which asks for the number of labels where the class is its own.
    known = {"num_labels": 3} if kind == "plain" else {}
    by_auto = AutoModelForSequenceClassification.from_pretrained(folder, **known)
    assert torch.equal(logits(by_auto, **inputs), expected)
    merged = load_adapter_model(folder).merge_and_unload()
    assert type(merged) is type(adapted.get_base_model())
    torch.testing.assert_close(logits(merged, **inputs), expected, rtol=1e-4, atol=1e-5)
    merged.save_pretrained(merged_folder)
    again = AutoModelForSequenceClassification.from_pretrained(merged_folder)
    stored = again.state_dict()
    assert all(torch.equal(stored[name], value) for name, value in merged.state_dict().items())


@pytest.mark.parametrize(
    "config", [IA3Config(), LoHaConfig(r=2), LNTuningConfig()], ids=lambda c: c.peft_type
)
def test_other_methods(config: Any, tmp_path: Path, tiny_encoder_dir: str) -> None:
    adapted = shaken(add_adapters(classifier("gru_fusion", tiny_encoder_dir), config))
    adapted.save_pretrained(str(tmp_path))
    inputs = batch()
    loaded = load_adapter_model(tmp_path)
    assert torch.equal(logits(loaded, **inputs), logits(adapted, **inputs))
    torch.testing.assert_close(
        logits(loaded.merge_and_unload(), **inputs), logits(adapted, **inputs), rtol=1e-4, atol=1e-5
    )
    if config.peft_type == "LN_TUNING":
        tuned = [m.get_base_layer() for m in adapted.modules() if isinstance(m, BaseTunerLayer)]
        assert tuned and all(isinstance(module, nn.LayerNorm) for module in tuned)


def test_a_folder_opens_as_pipeline_and_from_a_checkpoint_of_ours(
    saved: tuple[AdaptedModel, str], tmp_path: Path
) -> None:
    adapted, folder = saved
    tiny_tokenizer().save_pretrained(folder)
    answer = pipeline("text-classification", model=folder)("a good day")
    assert answer[0]["label"] in adapted.config.id2label.values()
    # Trained further: merged, saved, and adapted again.
    load_adapter_model(folder).merge_and_unload().save_pretrained(tmp_path / "ours")
    again = shaken(add_adapters(BertForGRUFusionClassification.from_pretrained(tmp_path / "ours")))
    again.save_pretrained(str(tmp_path / "again"))
    inputs = batch()
    assert torch.equal(logits(load_adapter_model(tmp_path / "again"), **inputs), logits(again, **inputs))


def test_a_random_fuser_that_is_kept_is_saved_and_not_trained(tmp_path: Path, tiny_encoder_dir: str) -> None:
    model = BertForGRUFusionClassification.from_pretrained(tiny_encoder_dir, num_groups=2, freeze_fusion=True)
    adapted = add_adapters(model)
    assert not any(parameter.requires_grad for parameter in model.model.fuser.parameters())
    assert any(parameter.requires_grad for parameter in model.classifier.parameters())
    adapted.save_pretrained(str(tmp_path))
    inputs = batch()
    loaded = load_adapter_model(tmp_path)
    torch.testing.assert_close(logits(loaded, **inputs), logits(adapted, **inputs))
    assert not any(parameter.requires_grad for parameter in loaded.get_base_model().model.fuser.parameters())


def test_target_modules_that_are_named(tiny_encoder_dir: str) -> None:
    def adapted_names(config: LoraConfig) -> set[str]:
        adapted = add_adapters(classifier("attention", tiny_encoder_dir), config)
        return {
            name.rpartition(".")[2]
            for name, module in adapted.named_modules()
            if isinstance(module, BaseTunerLayer)
        }

    # The fuser of BERT-Attention has a `query` too; it is trained, not adapted.
    assert adapted_names(LoraConfig(target_modules=["query", "intermediate.dense"])) == {"query", "dense"}
    assert adapted_names(LoraConfig(target_modules="all-linear")) == {"query", "key", "value", "dense"}


# One adapter a task


@pytest.mark.parametrize("num_task_layers", [0, 2])
def test_each_task_runs_with_its_adapter(num_task_layers: int, tmp_path: Path, tiny_encoder_dir: str) -> None:
    adapted = shaken(add_adapters(cerbertus(tiny_encoder_dir, num_task_layers=num_task_layers)))
    adapted.save_pretrained(str(tmp_path))
    inputs = {"five": batch(), "para": batch(2, 5), "sim": batch(4, 2, 6)}
    loaded, by_auto = (
        load_adapter_model(tmp_path),
        AutoModelForSequenceClassification.from_pretrained(tmp_path),
    )
    together = adapted.eval()(tasks=inputs).logits
    for task, of_task in inputs.items():
        # peft's own way with one adapter, in a model that knows of no others.
        alone = PeftModel.from_pretrained(
            cerbertus(tiny_encoder_dir, num_task_layers=num_task_layers), tmp_path / task
        )
        expected = logits(alone, task=task, **of_task)
        with alone.disable_adapter():
            assert not torch.equal(logits(alone, task=task, **of_task), expected)
        for model in (adapted, loaded, by_auto):
            assert torch.equal(logits(model, task=task, **of_task), expected)
        torch.testing.assert_close(together[task], expected)
        for model in (loaded, by_auto):
            model.set_adapter(task)
            assert torch.equal(logits(model, **of_task), expected)
            assert model.config.default_task == task


def test_a_tasks_loss_reaches_its_own_adapter_and_head_alone(tiny_encoder_dir: str) -> None:
    adapted = add_adapters(cerbertus(tiny_encoder_dir)).train()
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    adapted.set_adapter("sim")
    adapted(task="para", labels=torch.tensor([0, 1, 1]), **batch()).loss.backward()
    assert trained == {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    reached = {name for name, parameter in adapted.named_parameters() if parameter.grad is not None}
    assert reached == {name for name in trained if ".para." in name}
    assert any("lora_B.para" in name for name in reached) and any("heads.para" in name for name in reached)


def test_the_pipeline_of_several_tasks_asks_each_adapter(tmp_path: Path, tiny_encoder_dir: str) -> None:
    adapted = shaken(add_adapters(cerbertus(tiny_encoder_dir)))
    adapted.save_pretrained(str(tmp_path))
    tiny_tokenizer().save_pretrained(tmp_path)
    ask = MultitaskPipeline.from_pretrained(str(tmp_path))
    answer = ask({"text": "a good day", "text_pair": "a bad day"}, tasks=["para", "sim"])
    encoded = AutoTokenizer.from_pretrained(tmp_path)("a good day", "a bad day", return_tensors="pt")
    scores = logits(adapted, task="para", **encoded).softmax(-1)[0]
    assert answer["para"]["score"] == pytest.approx(scores.max().item(), abs=1e-5)
    assert answer["para"]["label"] == TASKS["para"]["labels"][int(scores.argmax())]


def test_one_adapter_for_all_tasks_and_one_of_some(tmp_path: Path, tiny_encoder_dir: str) -> None:
    inputs = batch()
    adapted = shaken(add_adapters(cerbertus(tiny_encoder_dir), each_task=False))
    expected = {task: logits(adapted, task=task, **inputs) for task in ("five", "para")}
    merged = adapted.merge_and_unload()
    for task, values in expected.items():
        torch.testing.assert_close(logits(merged, task=task, **inputs), values, rtol=1e-4, atol=1e-5)
    model = cerbertus(tiny_encoder_dir)
    base = logits(model, task="para", **inputs)
    apart = shaken(add_adapters(model))
    apart.delete_adapter("para")
    with pytest.raises(ValueError, match="must be one that has an adapter"):
        apart(task="para", **inputs)
    with apart.disable_adapter():
        torch.testing.assert_close(logits(apart, task="para", **inputs), base)


# In the Trainer


def small_adapted(folder: str) -> AdaptedModel:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=2, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1
    )
    return add_adapters(model, LoraConfig(r=2, lora_dropout=0.1))


def test_places_of_an_adapters_parameters(tiny_encoder_dir: str) -> None:
    adapted = add_adapters(classifier("gru_fusion", tiny_encoder_dir))
    places = parameter_parts(adapted)
    found = {name: places[id(parameter)] for name, parameter in adapted.named_parameters()}
    lora = {name: place for name, place in found.items() if "lora_" in name}
    assert {place.part for place in lora.values()} == {LAYER}
    assert all(f"layer.{place.layer}." in name for name, place in lora.items())
    assert {place.part for name, place in found.items() if ".modules_to_save." in name} == {"fusion", HEAD}
    assert {place.part for name, place in found.items() if "classifier" in name} == {HEAD}
    assert {place.part for name, place in found.items() if "embeddings" in name} == {EMBEDDINGS}


def test_rates_of_an_adapters_parameters(tmp_path: Path, tiny_encoder_dir: str) -> None:
    trainer = small_trainer(
        tmp_path,
        small_adapted(tiny_encoder_dir),
        layer_decay=0.5,
        learning_rate=1e-3,
        head_learning_rate=1e-2,
    )
    groups = {group["name"]: group for group in trainer.create_optimizer().param_groups}
    assert [groups[f"layer_{number}"]["lr"] for number in range(4)] == [1.25e-4, 2.5e-4, 5e-4, 1e-3]
    assert all(len(groups[f"layer_{number}"]["params"]) == 4 for number in range(4))
    assert {name for name in groups if not name.startswith("layer_")} == {
        TOP,
        f"{TOP}_no_decay",
        "head",
        "head_no_decay",
    }


def test_a_resumed_run_with_an_adapter_ends_in_the_same_weights(
    tmp_path: Path, tiny_encoder_dir: str
) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 1}
    whole = small_trainer(tmp_path / "a", small_adapted(tiny_encoder_dir), **settings)
    whole.train()
    resumed = small_trainer(tmp_path / "b", small_adapted(tiny_encoder_dir), **settings)
    assert weights_digest(resumed.model) != weights_digest(whole.model)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert weights_digest(resumed.model) == weights_digest(whole.model)
    files = {path.name for path in (tmp_path / "a" / "checkpoint-2").iterdir()}
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files


def test_the_best_adapter_is_loaded_at_the_end(tmp_path: Path, tiny_encoder_dir: str) -> None:
    trainer = small_trainer(
        tmp_path,
        small_adapted(tiny_encoder_dir),
        eval_strategy="epoch",
        save_strategy="epoch",
        num_train_epochs=3,
        load_best_model_at_end=True,
        learning_rate=0.05,
    )
    trainer.train()
    best = load_adapter_model(str(trainer.state.best_model_checkpoint))
    weights = dict(best.named_parameters())
    for name, parameter in trainer.model.named_parameters():
        assert ".original_module." in name or torch.equal(weights[name], parameter)
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses))


@pytest.mark.parametrize("task_mixing", ["shuffled", "together_longest"])
def test_several_adapters_train_resume_and_stay_apart(
    task_mixing: str, tmp_path: Path, tiny_encoder_dir: str
) -> None:
    def trainer(folder: str) -> Any:
        torch.manual_seed(0)
        model = add_adapters(cerbertus(tiny_encoder_dir), LoraConfig(r=2))
        return tasks_trainer(
            tmp_path / folder, model, task_mixing=task_mixing, save_strategy="steps", save_steps=2
        )

    whole, resumed = trainer("a"), trainer("b")
    start = {name: value.clone() for name, value in whole.model.state_dict().items()}
    whole.train()
    changed = {
        name for name, value in whole.model.state_dict().items() if not torch.equal(value, start[name])
    }
    trained = {name for name, parameter in whole.model.named_parameters() if parameter.requires_grad}
    # A matrix A moves from the second step on, as B starts at zero.
    assert {name for name in trained if "lora_A" not in name} <= changed <= trained
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert weights_digest(resumed.model) == weights_digest(whole.model)


@pytest.mark.parametrize("regularizers", ["smart", "bregman", "rdrop", "freelb"])
def test_regularizers_train_an_adapter(regularizers: str, tmp_path: Path, tiny_encoder_dir: str) -> None:
    trainer = small_trainer(
        tmp_path, small_adapted(tiny_encoder_dir), train=rows(8), regularizers=regularizers, low_memory=True
    )
    trainer.train()
    assert all(parameter.grad is None or parameter.requires_grad for parameter in trainer.model.parameters())
    assert trainer.state.global_step == 1


def test_smart_with_an_adapter_for_each_task_and_surgery_with_one_for_all(
    tmp_path: Path, tiny_encoder_dir: str
) -> None:
    one_step: dict[str, Any] = {"max_steps": 1, "task_mixing": "together"}
    apart = add_adapters(cerbertus(tiny_encoder_dir))
    tasks_trainer(tmp_path / "a", apart, regularizers="smart", **one_step).train()
    for_all = add_adapters(cerbertus(tiny_encoder_dir), each_task=False)
    trainer = tasks_trainer(tmp_path / "b", for_all, gradient_surgery="pcgrad", **one_step)
    trainer.train()
    assert "cosine_five_para" in {name for entry in trainer.state.log_history for name in entry}


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze_encoder": True}, "freeze_encoder .* excludes adapters"),
        (
            {"gradient_surgery": "pcgrad", "task_mixing": "together"},
            "gradient_surgery=pcgrad needs parameters",
        ),
        ({CHECKPOINTING: True}, f"{CHECKPOINTING} runs layers again"),
        ({"regularizers": "rdrop", "low_memory": True}, "low_memory runs layers again"),
    ],
)
def test_training_that_adapters_exclude(
    changes: dict[str, Any], message: str, tmp_path: Path, tiny_encoder_dir: str
) -> None:
    with pytest.raises(UserError, match=message):
        tasks_trainer(tmp_path, add_adapters(cerbertus(tiny_encoder_dir)), **changes)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PromptTuningConfig(num_virtual_tokens=2), "must be of a method that changes layers.*PROMPT_TUNING"),
        (LoraConfig(target_modules=["q_proj"]), "target_modules must be of the layers of 'bert'.*'q_proj'"),
    ],
    ids=["prompt", "target"],
)
def test_methods_and_modules_that_do_not_fit(config: Any, message: str, tiny_encoder_dir: str) -> None:
    with pytest.raises(UserError, match=message):
        add_adapters(classifier("gru_fusion", tiny_encoder_dir), config)


def test_a_model_of_no_checkpoint(tiny_encoder_dir: str) -> None:
    model = BertForGRUFusionClassification(classifier("gru_fusion", tiny_encoder_dir).config)
    model.name_or_path = ""
    with pytest.raises(UserError, match="must come from a checkpoint"):
        add_adapters(model)


def test_adapters_of_tasks_are_not_merged(tiny_encoder_dir: str) -> None:
    with pytest.raises(UserError, match="merge_and_unload needs one adapter of all tasks"):
        add_adapters(cerbertus(tiny_encoder_dir)).merge_and_unload()


def test_folders_without_adapters_or_with_others(
    saved: tuple[AdaptedModel, str], tmp_path: Path, tiny_encoder_dir: str
) -> None:
    _, folder = saved
    with pytest.raises(UserError, match=r"must hold adapter_config\.json"):
        load_adapter_model(tiny_encoder_dir)
    path = Path(folder) / "adapter_model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if "fuser" in name)
    save_file({key: value for key, value in weights.items() if key != name}, path)
    with pytest.raises(UserError, match=r"must hold the weights.*found 1 others or missing"):
        load_adapter_model(folder)
    with pytest.raises(ValueError, match=r"must hold every weight of its own"):
        AutoModelForSequenceClassification.from_pretrained(folder)
    path.unlink()
    with pytest.raises(UserError, match=r"found no adapter_model\.safetensors"):
        load_adapter_model(folder)


def test_an_adapter_opened_as_another_model(saved: tuple[AdaptedModel, str]) -> None:
    with pytest.raises(ValueError, match="must be opened as what it was trained in"):
        BertWithPoolingModule.from_pretrained(saved[1])


def test_what_transformers_has_opened_is_saved_again(saved: tuple[AdaptedModel, str], tmp_path: Path) -> None:
    adapted, folder = saved
    AutoModelForSequenceClassification.from_pretrained(folder).save_pretrained(tmp_path / "again")
    inputs = batch()
    expected = logits(adapted, **inputs)
    assert torch.equal(logits(load_adapter_model(tmp_path / "again"), **inputs), expected)
    fused = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        states = adapted.get_base_model().base_model(**inputs).last_hidden_state
        assert torch.equal(fused(**inputs).last_hidden_state, states)


def test_an_encoder_of_another_vocabulary(saved: tuple[AdaptedModel, str], tmp_path: Path) -> None:
    other = AutoModel.from_config(tiny_config("bert", vocab_size=7))
    other.save_pretrained(tmp_path / "other")
    path = Path(saved[1]) / "adapter_config.json"
    base = saved[0].get_base_model().name_or_path
    path.write_text(path.read_text().replace(base, str(tmp_path / "other")))
    with pytest.raises(UserError, match="must be the checkpoint that the adapters were trained on"):
        load_adapter_model(saved[1])


def test_a_pipeline_of_several_tasks_reads_through_adapters(tiny_encoder_dir):
    tasks = {name: {"labels": ["no", "yes"]} for name in ("one", "two")}
    model = CerbertusForMultitask.from_pretrained(tiny_encoder_dir, tasks=tasks, num_task_layers=0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder_dir)
    answers = MultitaskPipeline(add_adapters(model), tokenizer)(
        "good day " * 100
    )  # of more tokens than it takes
    assert set(answers) == {"one", "two"}
