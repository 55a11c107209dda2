"""A run that shards its model over the processes by FSDP2, with all that must then be gathered, averaged or summed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import EvalPrediction

from hf_layerfusion import CerbertusConfig, CerbertusForMultitask
from hf_layerfusion.training import launch_checks
from hf_layerfusion.training.trainer import LayerFusionTrainer
from tests.gradient_surgery.two_process_script import same_noise_on_every_row
from tests.tiny import tiny_config, tiny_tokenizer
from tests.training.small import small_arguments
from tests.training.test_multitask_model import TASKS, data

OPTIONS: dict[str, Any] = {
    # Adam makes much of a rounding error where a gradient is nearly zero, less so with this epsilon.
    "learning_rate": 2e-3,
    "adam_epsilon": 1e-3,
    "max_grad_norm": 0.5,
    "task_mixing": "together_longest",
    "gradient_surgery": "pcgrad",
    "regularizers": {"smart": {"weight": 5.0, "sigma": 0.02, "epsilon": 0.05}},
    "ema_decay": 0.7,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "loss",
    "best_of_each_task": True,
}
FSDP: dict[str, Any] = {"fsdp": True, "fsdp_config": {"transformer_layer_cls_to_wrap": ["BertLayer"]}}
HALFWAY = "checkpoint-2"


@contextmanager
def sharded_on_the_cpu() -> Iterator[None]:
    """Let accelerate shard on the CPU too.

    It builds `fully_shard` for every accelerator, but overlooks the CPU's kind of processes where it chooses FSDP
    (`AcceleratorState.__init__`, 1.15). What is set here is what it sets for the others; all else is its own path.
    """
    init = AcceleratorState.__init__

    def initialize(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.FSDP
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AcceleratorState, "__init__", initialize)
        patch.setattr(launch_checks, "is_on_the_cpu", lambda args: False)
        yield
    os.environ.pop("ACCELERATE_USE_FSDP", None)  # which accelerate sets for every run after this one


def score(found: EvalPrediction) -> dict[str, float]:
    return {"score": float(np.mean(found.predictions))}


def sharded_trainer(folder: Path, rows: int, seed: int = 1, **changes: Any) -> LayerFusionTrainer:
    """A Trainer of three tasks with layers of their own, `rows` rows of each in a micro-batch."""
    torch.manual_seed(seed)
    encoder = tiny_config("bert", 2, initializer_range=0.3)
    model = CerbertusForMultitask(CerbertusConfig(encoder_config=encoder, tasks=TASKS, num_task_layers=1))
    return LayerFusionTrainer(
        model,
        small_arguments(folder, per_device_train_batch_size=rows, **OPTIONS, **changes),
        train_dataset=data(12, 0),
        eval_dataset=data(3, 1),
        processing_class=tiny_tokenizer(),
        compute_metrics=score,
    )


def whole(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()
        for name, tensor in model.state_dict().items()
    }


def train_sharded(folder: Path, found: dict[str, Any]) -> None:
    """Train, resume from halfway, and save; each process draws weights of its own, of which the first one's count."""
    with sharded_on_the_cpu(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn_like", torch.randn_like)
        same_noise_on_every_row()
        rank = int(os.environ["RANK"])
        options: dict[str, Any] = {"rows": 2, "gradient_accumulation_steps": 2, **FSDP}
        trainer = sharded_trainer(folder / "sharded", seed=1 + rank, **options)
        trainer.evaluate()  # of a model that is not sharded yet
        trainer.train()
        found["is-sharded"] = isinstance(trainer.model, FSDPModule)
        found["shard-sizes"] = sum(
            p.to_local().numel() for p in trainer.model.parameters() if isinstance(p, DTensor)
        )
        found["sharded"] = whole(trainer.model)
        found["sharded-log"] = trainer.state.log_history
        resumed = sharded_trainer(folder / "sharded-resumed", seed=3, **options)
        resumed.train(resume_from_checkpoint=str(folder / "sharded" / HALFWAY))
        found["sharded-resumed"] = whole(resumed.model)
        resumed.save_model(str(folder / "sharded-saved"))
        resumed.accelerator.wait_for_everyone()
