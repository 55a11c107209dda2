"""The Trainer on texts without labels."""

from __future__ import annotations

import pytest
import torch

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.objectives import SimCSE
from tests.training.small import weights_digest
from tests.training.small_texts import text_stream, texts_trainer

SGD = {"optim": "sgd", "learning_rate": 0.1, "num_train_epochs": 3}


def test_micro_batches_make_up_the_whole_batch(tmp_path):
    """21 texts by 8, in micro-batches of 2: unlike numbers of masked tokens, and a last batch of 5."""
    whole = texts_trainer(tmp_path / "whole", per_device_train_batch_size=8, **SGD)
    whole.train()
    parts = texts_trainer(
        tmp_path / "parts", per_device_train_batch_size=2, gradient_accumulation_steps=4, **SGD
    )
    parts.train()
    assert whole.state.global_step == parts.state.global_step == 9
    for name, expected in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], expected, rtol=0, atol=1e-6)


def test_with_a_worker_a_run_comes_out_the_same_again(tmp_path):
    digests = set()
    for number in range(2):
        trainer = texts_trainer(tmp_path / f"{number}", dataloader_num_workers=1)
        trainer.train()
        assert trainer.state.global_step == 3
        digests.add(weights_digest(trainer.model))
    assert len(digests) == 1


def test_evaluation_draws_the_same_each_time_and_leaves_training_s_draws_alone(tmp_path):
    trainer = texts_trainer(tmp_path, SimCSE(), max_steps=1)
    trainer.model.config.hidden_dropout_prob = 0.5
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first, second = trainer.evaluate(), trainer.evaluate()
    assert first["eval_loss"] == second["eval_loss"]
    assert "eval_perplexity" not in first
    assert torch.equal(torch.get_rng_state(), state)


def test_a_step_without_a_masked_token_changes_no_weight(tmp_path):
    """A text a step and almost nothing masked: most steps have no label."""
    trainer = texts_trainer(tmp_path, train=text_stream(4), per_device_train_batch_size=1)
    collate = trainer.data_collator
    trainer.data_collator = lambda rows: {
        **(batch := collate(rows)),
        "labels": torch.full_like(batch["labels"], -100),
    }
    before = weights_digest(trainer.model)
    trainer.train()
    assert trainer.state.global_step == 4
    assert weights_digest(trainer.model) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("regularizers", "smart"),
        ("cache_frozen_states", "states"),
        ("class_balance", "weights"),
        ("label_smoothing_factor", 0.1),
        ("train_sampling_strategy", "group_by_length"),
        ("dataloader_num_workers", 2),
    ],
)
def test_options_that_labels_or_rows_need_are_refused(tmp_path, name, value):
    with pytest.raises(UserError, match=f"{name}={value} does not go with training on a stream"):
        texts_trainer(tmp_path, **{name: value})
