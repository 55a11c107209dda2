"""What of peft's settings works from training to resuming, and that all else is refused in one line."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    LoHaConfig,
    LoraConfig,
    PeftConfig,
    PolyConfig,
    PrefixTuningConfig,
    TrainableTokensConfig,
    VBLoRAConfig,
    VeraConfig,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModel, AutoModelForSequenceClassification

from hf_layerfusion import CerbertusForMultitask
from hf_layerfusion.errors import UserError
from hf_layerfusion.training.adapters import add_adapters, load_adapter_model
from tests.tiny import tiny_config
from tests.training.small import weights_digest
from tests.training.small_tasks import tasks_trainer

# Those of `tasks_trainer`, in an order that is not the folders'.
TASKS: dict[str, Any] = {
    "sim": {"pair": True, "pair_encoding": "siamese", "features": ["concat"], "problem_type": "regression"},
    "para": {"pair": True, "labels": ["no", "yes"]},
    "five": {"labels": ["a", "b", "c", "d", "e"]},
}
INPUTS = {"input_ids": torch.tensor([[2, 9, 14, 3], [2, 30, 21, 3]])}


def cerbertus(folder: str, **settings: Any) -> CerbertusForMultitask:
    return CerbertusForMultitask.from_pretrained(
        folder, **({"tasks": TASKS, "num_task_layers": 2} | settings)
    )


def plain(folder: str) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)


def adapted_layers(model: Any) -> set[int]:
    names = [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    return {int(found) for name in names for found in re.findall(r"\.layer\.(\d+)\.", name)}


WORKING: dict[str, tuple[PeftConfig, set[int]]] = {
    "layers": (LoraConfig(r=2, layers_to_transform=[0, 3], layers_pattern="layer"), {0, 3}),
    "one-layer": (LoHaConfig(r=2, layers_to_transform=2, target_modules=["query", "dense"]), {2}),
    "expressions": (
        LoraConfig(
            r=2,
            target_modules=r".*layer\.[012]\..*(query|key)",
            exclude_modules=r".*layer\.0\..*",
            rank_pattern={"query": 3},
        ),
        {1, 2},
    ),
    "saved": (LoraConfig(r=2, modules_to_save=["embeddings", "output.LayerNorm"]), {0, 1, 2, 3}),
    "tokens": (LoraConfig(r=2, trainable_token_indices=[*range(5, 99)], use_dora=True), {0, 1, 2, 3}),
}


@pytest.mark.parametrize("case", WORKING)
def test_an_adapter_for_each_task_is_trained_saved_opened_and_resumed(
    case: str, tmp_path: Path, tiny_encoder_dir: str
) -> None:
    config, layers = WORKING[case]

    def trainer(folder: str) -> Any:
        torch.manual_seed(0)
        model = add_adapters(cerbertus(tiny_encoder_dir), config)
        return tasks_trainer(tmp_path / folder, model, save_strategy="steps", save_steps=1, max_steps=2)

    whole, resumed = trainer("whole"), trainer("resumed")
    assert adapted_layers(whole.model) == layers
    start = {name: weight.clone() for name, weight in whole.model.named_parameters()}
    whole.train()
    moved = {name for name, weight in whole.model.named_parameters() if not torch.equal(weight, start[name])}
    assert any(re.search(r"lora_B|hada_w2", name) for name in moved)
    expected = {"saved": "embeddings.modules_to_save", "tokens": "trainable_tokens_delta"}.get(case, "heads")
    assert any(expected in name for name in moved)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    assert weights_digest(resumed.model) == weights_digest(whole.model)
    folder = tmp_path / "whole" / "checkpoint-2"
    for opened in (load_adapter_model(folder), AutoModelForSequenceClassification.from_pretrained(folder)):
        for task in ("five", "para"):
            with torch.no_grad():
                logits = [model.eval()(task=task, **INPUTS).logits for model in (opened, whole.model)]
            assert torch.equal(*logits)


def test_layers_that_are_chosen_of_a_plain_classifier_are_opened_and_merged(
    tmp_path: Path, tiny_encoder_dir: str
) -> None:
    adapted = add_adapters(plain(tiny_encoder_dir), LoraConfig(r=2, layers_to_transform=[1]))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight += 1
    adapted.save_pretrained(str(tmp_path))
    opened = load_adapter_model(tmp_path)
    assert adapted_layers(opened) == {1}
    logits = adapted.eval()(**INPUTS).logits
    assert torch.equal(opened(**INPUTS).logits, logits)
    torch.testing.assert_close(opened.merge_and_unload()(**INPUTS).logits, logits, rtol=1e-4, atol=1e-5)


REFUSED: dict[str, tuple[PeftConfig, str]] = {
    "prefix": (PrefixTuningConfig(num_virtual_tokens=2), "virtual tokens would be fused"),
    "poly": (PolyConfig(r=2), "found POLY, which is told the task of each text by `task_ids`"),
    "tokens alone": (TrainableTokensConfig(token_indices=[9]), "found TRAINABLE_TOKENS, which would leave"),
    "replication": (LoraConfig(layer_replication=[(0, 2), (1, 4)]), "layer_replication must be left out"),
    "parameters": (LoraConfig(target_parameters=["query.weight"]), "target_parameters must be left out"),
    "eva": (LoraConfig(init_lora_weights="eva"), "must need no steps before training, found 'eva'"),
    "pissa": (LoraConfig(init_lora_weights="pissa"), "changes the layers that tasks share"),
    "bias": (LoraConfig(bias="all"), "bias='all' trains biases that tasks share"),
    "no layer": (LoraConfig(layers_to_transform=[4]), "numbers of layers from 0 to 3, found 4"),
    "negative": (LoraConfig(layers_to_transform=-1), "numbers of layers from 0 to 3, found -1"),
    "no pattern": (LoraConfig(layers_to_transform=[1], layers_pattern="h"), "must be 'layer'.*found 'h'"),
    "excluded": (LoraConfig(exclude_modules=["key"]), "exclude_modules must fit modules that are adapted.*'key'"),
    "all excluded": (LoraConfig(exclude_modules=["query", "value"]), "LORA cannot be used so, found No modules"),
    "ranks": (LoraConfig(rank_pattern={"key": 3}), "rank_pattern must fit modules that are adapted.*'key'"),
    "alphas": (LoraConfig(alpha_pattern={"q": 3}), "alpha_pattern must fit modules that are adapted.*'q'"),
    "saved": (LoraConfig(modules_to_save=["pooler"]), "modules_to_save must name modules.*found 'pooler'"),
    "saved twice": (LoraConfig(modules_to_save=["layer"]), "must not hold modules that are adapted"),
    "empty": (LoraConfig(target_modules=[]), "target_modules must name a module, found an empty list"),
    "head": (LoraConfig(target_modules=r".*(query|classifier)"), "in the encoder's layers alone, found heads"),
    "expression": (LoraConfig(target_modules="("), r"must be a regular expression, found '\('"),
    "vocabulary": (LoraConfig(trainable_token_indices=[9, 10**6]), "vocabulary of .*, found 1000000"),
    "rank": (LoraConfig(r=10**9), "r must be 64 or less, found 1000000000"),
    "rank of some": (LoraConfig(rank_pattern={"query": 10**9}), "rank_pattern.*must be 64 or less"),
    "rank of a kin": (VeraConfig(r=10**9), "r must be 64 or less"),
    "vectors": (VBLoRAConfig(num_vectors=10**9), "num_vectors must be 1000000 or less"),
    "alpha": (LoraConfig(lora_alpha=math.nan), "lora_alpha must be a finite number, found nan"),
    "infinite": (LoraConfig(alpha_pattern={"query": math.inf}), "must be a finite number, found inf"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, tiny_encoder_dir: str) -> None:
    config, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as found:
        add_adapters(cerbertus(tiny_encoder_dir), config)
    assert "\n" not in str(found.value)


def test_layers_that_are_one(tmp_path: Path) -> None:
    AutoModel.from_config(tiny_config("albert")).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="layers_to_transform must be left out for 'albert'"):
        add_adapters(plain(str(tmp_path)), LoraConfig(layers_to_transform=[1]))


@pytest.mark.parametrize("name", ["value", "encoder", "weight"])
def test_a_task_that_is_called_as_a_module(name: str, tiny_encoder_dir: str) -> None:
    tasks = {name: {"labels": ["no", "yes"]}, "five": TASKS["five"]}
    with pytest.raises(UserError, match=f"task '{name}': must not be called as a module or weight"):
        add_adapters(cerbertus(tiny_encoder_dir, tasks=tasks))
    add_adapters(cerbertus(tiny_encoder_dir, tasks=tasks), each_task=False)


# Of settings in a folder: what is written there, and what is said of it.
DAMAGED: dict[str, tuple[Any, str]] = {
    "no checkpoint": (
        {"base_model_name_or_path": None},
        "base_model_name_or_path.* must name the checkpoint",
    ),
    "rank": ({"r": 10**9}, r"r`? must be .*1000000000"),
    "alpha": ({"lora_alpha": math.nan}, "lora_alpha`? must be a finite number.*nan"),
    "type": ({"r": "8"}, "cannot be used so|must have the settings of a method"),
    "method": (
        {"peft_type": "NONE"},
        "must hold the settings of an adapter|must have the settings of a method",
    ),
    "two": ({"base_model_name_or_path": "elsewhere"}, "must name one checkpoint, found"),
    "list": ([], "must hold the settings of an adapter"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: str) -> Path:
    """The adapters of three tasks."""
    place = tmp_path_factory.mktemp("adapters") / "tasks"
    add_adapters(cerbertus(tiny_encoder_dir), LoraConfig(r=2)).save_pretrained(str(place))
    return place


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_settings_are_named(case: str, folder: Path, tmp_path: Path) -> None:
    changes, message = DAMAGED[case]
    shutil.copytree(folder, tmp_path / "tasks")
    path = tmp_path / "tasks" / "sim" / "adapter_config.json"
    settings = changes if isinstance(changes, list) else json.loads(path.read_text()) | changes
    path.write_text(json.dumps(settings))
    for way in (load_adapter_model, AutoModelForSequenceClassification.from_pretrained):
        with pytest.raises(ValueError, match=message) as found:
            way(tmp_path / "tasks")
        assert "\n" not in str(found.value)
