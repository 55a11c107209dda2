"""A resumed run has the global batch of its checkpoint; on other numbers of processes: test_two_processes.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hf_layerfusion.errors import UserError
from tests.training.small import small_trainer

SMART = {"smart": {"mode": "smart-pytorch"}}


@pytest.mark.parametrize(
    ("options", "divided", "rule"),
    [
        ({}, (4, 2), None),
        ({}, (4, 1), "found 4 rows (4 x 1 on 1 processes)"),
        ({}, (16, 1), "found 16 rows (16 x 1 on 1 processes)"),
        (
            {"dataloader_drop_last": True},
            (4, 2),
            "so is gradient_accumulation_steps, as dataloader_drop_last leaves",
        ),
        ({"regularizers": {"smart": {}}}, (4, 2), None),
        (
            {"regularizers": SMART},
            (4, 2),
            "so is per_device_train_batch_size, as the loss depends on which rows share a device",
        ),
    ],
)
def test_resuming_with_the_batch_divided_anew(
    options: dict[str, Any], divided: tuple[int, int], rule: str | None, tmp_path: Path
) -> None:
    """32 rows by 8; two of the four steps are saved."""
    options = {"optim": "sgd", "learning_rate": 0.1, **options}
    straight = small_trainer(tmp_path, save_strategy="steps", save_steps=2, **options)
    straight.train()
    rows, accumulation = divided
    changes = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulation}
    resumed = small_trainer(tmp_path / "resumed", **changes, **options)
    checkpoint = str(tmp_path / "checkpoint-2")
    if rule is None:
        resumed.train(resume_from_checkpoint=checkpoint)
        assert (resumed._initial_global_step, resumed.state.global_step) == (2, 4)
        for name, value in straight.model.state_dict().items():
            torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=0, atol=1e-5)
    else:
        with pytest.raises(UserError) as raised:
            resumed.train(resume_from_checkpoint=checkpoint)
        assert rule in str(raised.value)
