"""From texts to the package's own model of several tasks, trained, saved and opened again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from hf_layerfusion import CerbertusForMultitask
from hf_layerfusion.data.truncation import encode
from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.metrics import compute_metrics_for
from hf_layerfusion.training.collators import PaddingCollator
from hf_layerfusion.training.task_data import SWAPPED
from hf_layerfusion.training.trainer import LayerFusionTrainer
from tests.tiny import tiny_texts, tiny_tokenizer
from tests.training.small import small_arguments

TASKS: dict[str, dict[str, Any]] = {
    "mood": {"labels": ["negative", "positive"], "dropout": 0.0},
    "same": {"labels": ["no", "yes"], "pair": True, "loss": "binary_cross_entropy", "dropout": 0.0},
    "near": {
        "problem_type": "regression",
        "value_range": [0, 5],
        "pair": True,
        "pair_encoding": "siamese",
        "head": "cosine",
        "sentence_vector": "mean",
        "dropout": 0.0,
    },
}


def data(count: int, seed: int) -> dict[str, Dataset]:
    """The mood of a text; whether two have the same, in either order; and how near they are, each by itself."""
    tokenizer = tiny_tokenizer()
    rows = tiny_texts(2 * count, seed)
    texts = [text for text, _ in rows]
    moods = [int(label == "positive") for _, label in rows]
    shift = 3  # moods alternate
    first, second = texts[:count], texts[shift : shift + count]
    same = [int(a == b) for a, b in zip(moods, moods[shift:], strict=False)][:count]
    same[::3] = [1] * len(same[::3])
    joint = encode(tokenizer, first, second, max_length=24, cut="middle")
    turned = encode(tokenizer, second, first, max_length=24, cut="middle")
    apart = [encode(tokenizer, part, max_length=24) for part in (first, second)]
    return {
        "mood": Dataset.from_dict({**encode(tokenizer, texts, max_length=24), "labels": moods}),
        "same": Dataset.from_dict({**joint, **{SWAPPED + k: v for k, v in turned.items()}, "labels": same}),
        "near": Dataset.from_dict(
            {name: list(zip(*(part[name] for part in apart), strict=True)) for name in apart[0]}
            | {"labels": [float(5 * label) for label in same]}
        ),
    }


@pytest.mark.parametrize(
    ("mixing", "changes"),
    [("shuffled", {"class_balance": "weights"}), ("together_longest", {"freeze_encoder": True})],
)
def test_three_tasks(tmp_path: Path, tiny_encoder_dir: str, mixing: str, changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = CerbertusForMultitask.from_pretrained(tiny_encoder_dir, tasks=TASKS, num_task_layers=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = LayerFusionTrainer(
        model,
        small_arguments(
            tmp_path,
            num_train_epochs=4,
            learning_rate=3e-3,
            task_mixing=mixing,
            train_sampling_strategy="group_by_length",
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="eval_mean",
            best_of_each_task=True,
            **changes,
        ),
        train_dataset=data(24, 0),
        eval_dataset=data(12, 1),
        processing_class=tiny_tokenizer(),
        compute_metrics={
            task: compute_metrics_for(settings.get("problem_type", "single_label_classification"))
            for task, settings in TASKS.items()
        },
    )
    trainer.train()
    evaluations = [entry for entry in trainer.state.log_history if "eval_mean" in entry]
    assert len(evaluations) == 4
    best = max(entry["eval_mean"] for entry in evaluations)
    assert trainer.evaluate()["eval_mean"] == pytest.approx(best)
    mains = [evaluations[0][f"eval_{name}"] for name in ("mood_accuracy", "same_accuracy", "near_pearsonr")]
    assert evaluations[0]["eval_mean"] == pytest.approx(sum(mains) / 3)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert any(".copies." in name for name in moved) == ("freeze_encoder" not in changes)
    if "freeze_encoder" in changes:
        assert moved and all(name.startswith("heads.") for name in moved)
    trainer.save_model()
    again = CerbertusForMultitask.from_pretrained(tmp_path)
    assert CerbertusForMultitask.from_pretrained(tmp_path / "best-same").config.tasks.keys() == TASKS.keys()
    test = data(6, 2)
    for task, output in trainer.predict(test).items():
        with torch.no_grad():
            logits = again.eval()(task=task, **PaddingCollator(tiny_tokenizer())(list(test[task]))).logits
        torch.testing.assert_close(torch.tensor(output.predictions), logits, atol=1e-5, rtol=0)


def test_weights_are_for_cross_entropy_only(tmp_path: Path, tiny_encoder_dir: str) -> None:
    tasks = {
        "same": TASKS["same"] | {"pair_encoding": "siamese", "head": "cosine", "loss": "cosine_embedding"}
    }
    model = CerbertusForMultitask.from_pretrained(tiny_encoder_dir, tasks=tasks)
    rows = data(8, 0)["near"].remove_columns("labels").add_column("labels", [0, 1] * 4)
    trainer = LayerFusionTrainer(
        model,
        small_arguments(tmp_path, class_balance="weights"),
        train_dataset={"same": rows},
        processing_class=tiny_tokenizer(),
    )
    with pytest.raises(UserError, match="task 'same' must be cross-entropy"):
        trainer.train()
