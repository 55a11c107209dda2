from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation import linear_probe
from hf_layerfusion.evaluation.linear_probe import fit_linear_probe
from hf_layerfusion.modeling.fusion_pooling import SENTENCE_FUSERS
from hf_layerfusion.regularizers.task_outputs import ONE_TASK
from hf_layerfusion.training.probe_start import _probe_targets
from hf_layerfusion.training.trainer import LayerFusionTrainer
from tests.modeling.cases import build
from tests.tiny import tiny_tokenizer
from tests.training.small import rows, small_arguments
from tests.training.test_frozen_state_cache import frozen_trainer


def started(folder: Path, case: str, **settings: Any) -> Any:
    """A trainer after one step at a rate of nothing."""
    torch.manual_seed(1)
    settings = {"learning_rate": 0.0, "max_steps": 1, "init_from_probe": True} | settings
    trainer = frozen_trainer(folder / "run", build(case), folder / "states", rows(48, 3), **settings)
    trainer.train()
    return trainer


def features(model: Any, texts: list[dict[str, Any]]) -> np.ndarray:
    """What the head's last layer reads of each text, by itself."""
    kept: list[torch.Tensor] = []
    handle = model.classifier.out_proj.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    with torch.no_grad():
        for row in texts:
            model.eval()(**{name: torch.tensor([row[name]]) for name in ("input_ids", "attention_mask")})
    handle.remove()
    return torch.cat(kept).numpy()


@pytest.mark.parametrize("case", [f"{pooling}-mean" for pooling in SENTENCE_FUSERS])
def test_the_model_answers_as_the_probe_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    # Labels drawn at random leave the choice among several to rounding.
    monkeypatch.setattr(linear_probe, "STRENGTHS", (10.0,))
    trainer = started(tmp_path, case)
    texts = rows(48, 3)
    found = features(trainer.model, texts)
    probe = fit_linear_probe(
        found, [row["labels"] for row in texts], "single_label_classification", num_classes=3
    )
    last = trainer.model.classifier.out_proj
    np.testing.assert_allclose(last.weight.detach().numpy(), probe.weight, atol=1e-3)
    np.testing.assert_allclose(last.bias.detach().numpy(), probe.bias, atol=1e-2)


@pytest.mark.parametrize("case", ["concat-cls_mean", "attentive-mean", "layer_graph-cls"])
def test_layers_are_standardised_by_the_training_texts(tmp_path: Path, case: str) -> None:
    trainer = started(tmp_path, case, init_from_probe=False)
    fuser = trainer.model.model.fuser
    vectors = []
    with torch.no_grad():
        for row in rows(48, 3):
            inputs = {name: torch.tensor([row[name]]) for name in ("input_ids", "attention_mask")}
            states, _ = trainer.model.model.encode(inputs["input_ids"], inputs["attention_mask"], None)
            vectors.append(fuser.vectors(states, inputs["attention_mask"])[0])
    expected = torch.stack(vectors)
    torch.testing.assert_close(fuser.mean, expected.mean(0), rtol=0, atol=1e-5)
    torch.testing.assert_close(fuser.scale, expected.std(0, unbiased=False), rtol=1e-4, atol=1e-5)


def test_a_feature_that_hardly_varies_is_not_scaled_up() -> None:
    """Else the gradient of an encoder that is trained afterwards overflows."""
    fuser = build("concat-mean").model.fuser
    deviation = torch.ones_like(fuser.scale)
    deviation[0, :2] = torch.tensor([8e-33, 0.0])
    fuser.standardize(torch.zeros_like(fuser.mean), deviation)
    assert fuser.scale.min() == 1.0


def test_a_saved_model_keeps_the_standardization(tmp_path: Path) -> None:
    trainer = started(tmp_path, "concat-mean")
    trainer.save_model(str(tmp_path / "saved"))
    again = type(trainer.model).from_pretrained(tmp_path / "saved")
    assert torch.equal(again.model.fuser.scale, trainer.model.model.fuser.scale)
    assert not torch.equal(again.model.fuser.scale, torch.ones_like(again.model.fuser.scale))


def test_a_resumed_run_does_not_start_anew(tmp_path: Path) -> None:
    changes = {"learning_rate": 0.1, "save_strategy": "steps", "save_steps": 2, "optim": "sgd"}
    whole = started(tmp_path / "whole", "concat-mean", max_steps=4, **changes)
    started(tmp_path / "cut", "concat-mean", max_steps=2, **changes)
    torch.manual_seed(1)
    resumed = frozen_trainer(
        tmp_path / "cut" / "run", build("concat-mean"), tmp_path / "cut" / "states", rows(48, 3),
        max_steps=4, init_from_probe=True, **changes,
    )  # fmt: skip
    resumed.train(resume_from_checkpoint=True)
    for name, expected in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], expected, rtol=0, atol=1e-6)


def test_a_residual_head_starts_from_the_probe_of_the_last_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_probe, "STRENGTHS", (10.0,))
    torch.manual_seed(1)
    model = build("share-gru", residual_head="mean")
    settings = {"learning_rate": 0.0, "max_steps": 1, "init_from_probe": True}
    trainer = frozen_trainer(tmp_path / "run", model, tmp_path / "states", rows(48, 3), **settings)
    trainer.train()
    vectors = []
    with torch.no_grad():
        for row in rows(48, 3):
            inputs = {name: torch.tensor([row[name]]) for name in ("input_ids", "attention_mask")}
            vectors.append(model.model.encoder(**inputs).last_hidden_state[0].mean(0))
    labels = [row["labels"] for row in rows(48, 3)]
    probe = fit_linear_probe(
        torch.stack(vectors).numpy(), labels, "single_label_classification", num_classes=3
    )
    np.testing.assert_allclose(model.residual.head.out_proj.weight.detach().numpy(), probe.weight, atol=1e-3)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found neither cache_frozen_states nor head_first_epochs"):
        frozen_trainer(tmp_path, build("concat-mean"), init_from_probe=True)
    with pytest.raises(
        UserError, match="use BertWithPoolingModule, CerbertusForMultitask or a residual_head"
    ):
        frozen_trainer(tmp_path, build("share-gru"), tmp_path / "states", init_from_probe=True)
    with pytest.raises(UserError, match="multi_label_classification"):
        frozen_trainer(
            tmp_path, build("concat-mean", problem_type="multi_label_classification"), tmp_path / "states",
            init_from_probe=True,
        )  # fmt: skip


def test_labels_that_the_users_collator_makes_are_not_judged_before(tmp_path: Path) -> None:
    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        texts = [{name: row[name] for name in ("input_ids", "attention_mask")} for row in batch]
        names = ["low", "middle", "high"]
        made = torch.tensor([names.index(row["labels"]) for row in batch])
        return {**tiny_tokenizer().pad(texts, return_tensors="pt"), "labels": made}

    named = [{**row, "labels": ["low", "middle", "high"][row["labels"]]} for row in rows(24, 3)]
    trainer = LayerFusionTrainer(
        build("concat-mean"),
        small_arguments(
            tmp_path / "run",
            freeze_encoder=True,
            cache_frozen_states=str(tmp_path / "states"),
            init_from_probe=True,
            max_steps=1,
            remove_unused_columns=False,
        ),
        train_dataset=named,
        data_collator=collate,
    )
    trainer.train()


def test_a_value_of_minus_100_is_a_label_of_a_regression() -> None:
    labels = np.array([-100.0, 2.5, np.nan, 1.0, 3.0, 0.5, -2.0], dtype=np.float32)
    targets, is_labelled, problem = _probe_targets(build("concat-mean", num_labels=1), ONE_TASK, labels)
    assert problem == "regression" and is_labelled.tolist() == [True, True, False, *[True] * 4]
    np.testing.assert_array_equal(targets, labels[[0, 1, 3, 4, 5, 6]])
