"""A run of 19 rows, of any number of processes and machines; see test_launches.py. A process can be told to die."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from tests.training.small import rows, small_trainer

ROWS_OF_A_STEP = 6
OPTIONS: dict[str, Any] = {
    "optim": "sgd",
    "learning_rate": 0.1,
    "num_train_epochs": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "train_sampling_strategy": "group_by_length",
}


class DieAt(TrainerCallback):
    """The last process ends at a step without a word, as one that the kernel kills."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step and args.process_index == args.world_size - 1:
            os._exit(9)


def main(folder: Path, resume: str, dies_at: int) -> None:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    trainer = small_trainer(
        folder,
        train=rows(19),
        per_device_train_batch_size=ROWS_OF_A_STEP // processes,
        callbacks=[DieAt(dies_at)],
        **OPTIONS,
    )
    trainer.train(resume_from_checkpoint=resume or None)
    if trainer.args.process_index == 0:
        torch.save(
            {"world_size": trainer.args.world_size, "start": trainer._initial_global_step}
            | {"weights": trainer.model.state_dict()},
            folder / "found.pt",
        )
    trainer.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
