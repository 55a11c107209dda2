"""The Trainer of this package: the stock one, with its gaps closed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sized
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.data_loader import get_sampler
from accelerate.utils import slice_tensors
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_optimizer import is_optimizer_factory
from transformers.trainer_pt_utils import LengthGroupedSampler, find_batch_size
from transformers.trainer_utils import (
    PREFIX_CHECKPOINT_DIR,
    EvalLoopOutput,
    TrainOutput,
    has_length,
    rotate_checkpoints,
)
from transformers.training_args import OptimizerNames

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.arguments import LayerFusionTrainingArguments
from hf_layerfusion.training.callbacks import EarlyStopping
from hf_layerfusion.training.checkpoints import newest_valid_checkpoint, verify_checkpoint, write_manifest
from hf_layerfusion.training.optimizer import epoch_decay_schedule, parameter_groups
from hf_layerfusion.training.sampling import LengthSortedSampler, SeededLengthGroupedSampler, take_rows

ARGUMENTS_NAME = "training_args.json"

# Where a training batch carries its number of examples to compute_loss, which the model never sees.
_NUM_ITEMS = "num_items"


class LayerFusionTrainer(Trainer):
    """A `transformers.Trainer` for any `PreTrainedModel` whose loss is a mean over the examples of its batch.

    It differs from the stock Trainer in this:

    - Encoder and the rest (fuser, head) are parameter groups with rates of their own; they may decay by epoch.
    - Gradient accumulation and several processes give the gradient of the undivided batch: each micro-batch
      weighs as its share of the examples, less those that accelerate repeats to even out the last batch.
    - Checkpoints carry a manifest of checksums. Damaged ones are refused, and passed over when the newest is
      asked for. Weights that do not fit the model are refused too.
    - A resumed run ends in the same weights as one that was not interrupted: evaluation leaves the random
      generator alone, early stopping counts on, and examples grouped by length come in an order of their own.
    - Predictions are in the order of the rows, also where batches are grouped by length.
    - A loss or gradient that is not finite stops the run before it reaches the weights.
    - `training_args.json` is written beside `training_args.bin`, and neither holds the Hub's token.

    Args:
        model: As for `Trainer`.
        args: Must be `LayerFusionTrainingArguments`.
        **kwargs: Every other argument of `Trainer`, by name.

    Raises:
        UserError: see the arguments' class, `train` and `create_optimizer`.
    """

    args: LayerFusionTrainingArguments
    optimizer_cls_and_kwargs: tuple[type[Optimizer], dict[str, Any]] | None
    lr_scheduler: LRScheduler | None
    # compute_loss weighs each micro-batch by its share: nothing is left for the stock Trainer to divide by.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: LayerFusionTrainingArguments | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(args, LayerFusionTrainingArguments):
            raise UserError(
                f"args must be LayerFusionTrainingArguments, found {type(args).__name__}; "
                "it takes every field of TrainingArguments"
            )
        super().__init__(model, args, **kwargs)
        # What `num_items_in_batch` does inside a model differs from class to class, and some ignore it.
        self.model_accepts_loss_kwargs = False
        self._updates_per_epoch: int | None = None
        self._losses_are_finite = torch.ones((), dtype=torch.bool, device=args.device)
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStopping())

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> TrainOutput:
        """Train, as `Trainer.train` does.

        Args:
            resume_from_checkpoint: True for the newest intact checkpoint of `output_dir`, or a folder.
            *args: As for `Trainer.train`.
            **kwargs: As for `Trainer.train`.

        Raises:
            UserError: there is no intact checkpoint, the named one is damaged or does not fit the model, or a
                loss or gradient is not finite.
        """
        if resume_from_checkpoint is True:
            newest = newest_valid_checkpoint(str(self.args.output_dir))
            if newest is None:
                raise UserError(
                    f"resume_from_checkpoint: there is no intact checkpoint in {self.args.output_dir}; "
                    "start the run anew"
                )
            resume_from_checkpoint = str(newest)
        elif resume_from_checkpoint:
            verify_checkpoint(resume_from_checkpoint)
        self._losses_are_finite.fill_(True)
        return super().train(resume_from_checkpoint or None, *args, **kwargs)

    # Rates

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """Make the optimizer of `args.optim` over `parameter_groups`, unless one was given.

        Raises:
            UserError: `fusion_learning_rate` with an optimizer that makes its own groups; nothing to train.
        """
        if self.optimizer is not None:
            return super().create_optimizer(model)
        target = cast(PreTrainedModel, self.model if model is None else model)
        given = self.optimizer_cls_and_kwargs
        optimizer_class, options = given or self.get_optimizer_cls_and_kwargs(self.args, target)
        if is_optimizer_factory(optimizer_class) or options.keys() & {"params", "model", "optimizer_dict"}:
            if self.args.fusion_learning_rate is not None:
                raise UserError(
                    f"fusion_learning_rate={self.args.fusion_learning_rate} needs an optimizer that takes "
                    f"parameter groups, and optim={OptimizerNames(self.args.optim).value} makes its own; "
                    "choose another, such as adamw_torch, or leave the rate out"
                )
            return super().create_optimizer(model)
        groups = parameter_groups(target, self.args, self.get_decay_parameter_names(target))
        # The stock method prefers groups that come with the options to its own.
        self.optimizer_cls_and_kwargs = (optimizer_class, {**options, "params": groups})
        try:
            return super().create_optimizer(model)
        finally:
            self.optimizer_cls_and_kwargs = given

    def set_initial_training_values(
        self, args: TrainingArguments, dataloader: DataLoader
    ) -> tuple[int, int, int, int, int, int | None, int]:
        """As the stock method; remembers the number of optimizer steps in an epoch."""
        values = super().set_initial_training_values(args, dataloader)
        self._updates_per_epoch = values[1] if has_length(dataloader) else None
        return values

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """Make the schedule of `lr_scheduler_type`, or that of `epoch_decay`, unless one was given.

        Raises:
            UserError: `epoch_decay` on training data whose length is not known.
        """
        if self.lr_scheduler is None and self.args.epoch_decay != 1:
            if self._updates_per_epoch is None:
                self.set_initial_training_values(self.args, self.get_train_dataloader())
            if self._updates_per_epoch is None:
                raise UserError(
                    f"epoch_decay={self.args.epoch_decay} needs training data of a known length, found a "
                    "stream; set epoch_decay=1 or load the data without streaming"
                )
            self.lr_scheduler = epoch_decay_schedule(
                cast(Optimizer, optimizer or self.optimizer), self.args.epoch_decay, self._updates_per_epoch
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _get_learning_rate(self) -> float:
        # Called before the scheduler steps, so these are the rates of the step that will be logged.
        groups = cast(Optimizer, self.optimizer).param_groups
        self._rates = {group.get("name"): group["lr"] for group in groups}
        return super()._get_learning_rate()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the stock method; adds `fusion_learning_rate` where it differs from `learning_rate`."""
        if "learning_rate" in logs:
            fusion_rate = self._rates.get("fusion", self._rates.get("fusion_no_decay"))
            if fusion_rate is not None and fusion_rate != logs["learning_rate"]:
                logs["fusion_learning_rate"] = float(fusion_rate)
        super().log(logs, start_time)

    # Order of the examples

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        sampler = super()._get_train_sampler(train_dataset)
        if not isinstance(sampler, LengthGroupedSampler):
            return sampler
        args = self.args
        return SeededLengthGroupedSampler(
            # All examples of an optimizer step, so that the order does not depend on how they are shared out.
            args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            lengths=sampler.lengths,
            seed=args.seed if args.data_seed is None else args.data_seed,
            epoch=lambda: int(self.state.epoch or 0),
        )

    # Batches and their loss

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """The micro-batches of an optimizer step, and how many examples they hold on all processes."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.compute_loss_func is not None or not batches:
            return batches, num_items
        for batch in batches[:-1]:
            batch[_NUM_ITEMS] = self._count_items(batch)
        batches[-1] = self._without_repeats(batches[-1])
        total = torch.stack([torch.as_tensor(batch[_NUM_ITEMS], device=device) for batch in batches]).sum()
        if self._averages_over_processes:
            total = self.accelerator.reduce(total, reduction="sum")
        return batches, total

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The model's loss; in training, times the micro-batch's share of the `num_items_in_batch` examples.

        DDP averages gradients over the processes, so the share is multiplied by their number.
        """
        if _NUM_ITEMS not in inputs or num_items_in_batch is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs = dict(inputs)
        items = torch.as_tensor(inputs.pop(_NUM_ITEMS), device=self.args.device)
        share = items / num_items_in_batch
        if self._averages_over_processes:
            share = share * self.args.world_size
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        # The mean over no label at all is not a number; it is not an error unless the whole batch has none.
        loss = torch.where(items == 0, share, loss * share)
        return (loss, outputs) if return_outputs else loss

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler | None:
        sampler = super()._get_eval_sampler(eval_dataset)
        return LengthSortedSampler(sampler.lengths) if isinstance(sampler, LengthGroupedSampler) else sampler

    def evaluation_loop(self, dataloader: DataLoader, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As the stock method, but predictions are in the order of the rows, and torch's generator stays as it was.

        The stock Trainer hands out predictions in the order of its sampler, which with
        `train_sampling_strategy="group_by_length"` is not that of the rows. And a data loader draws a seed each
        time it starts: where a checkpoint is saved between the end of an epoch and its evaluation, the run that
        resumes from it would otherwise draw other dropout masks.
        """
        with torch.random.fork_rng(devices=[]):
            output = super().evaluation_loop(dataloader, *args, **kwargs)
        sampler = get_sampler(dataloader)
        if not isinstance(sampler, LengthSortedSampler):
            return output
        rows = np.argsort(sampler.order)
        return output._replace(
            predictions=take_rows(output.predictions, rows), label_ids=take_rows(output.label_ids, rows)
        )

    @property
    def _averages_over_processes(self) -> bool:
        return self.args.average_tokens_across_devices and self.args.world_size > 1

    def _count_items(self, batch: Mapping[str, Any]) -> Tensor | int:
        """How many terms the model's mean runs over: labels other than -100, or else rows."""
        labels = batch.get(self.label_names[0]) if len(self.label_names) == 1 else None
        if isinstance(labels, Tensor) and not labels.is_floating_point():
            return (labels != -100).sum()
        return find_batch_size(batch)

    def _without_repeats(self, batch: Any) -> Any:
        """The last micro-batch of a step, counted, less the rows that accelerate repeats at an epoch's end.

        There accelerate starts over at the epoch's first examples until each process has a full batch. A process
        that has nothing but such repeats keeps one row, for DDP's sake, and counts none.
        """
        args, config = self.args, self.accelerator.dataloader_config
        evened = (
            args.world_size > 1
            and self.accelerator.gradient_state.end_of_dataloader
            and has_length(self.train_dataset)
            and args.train_sampling_strategy != "batch_rebalance"
            and not (args.dataloader_drop_last or config.split_batches or config.dispatch_batches)
        )
        examples = len(cast(Sized, self.train_dataset)) if evened else 0
        remainder = examples % (self._train_batch_size * args.world_size)
        if remainder == 0:
            batch[_NUM_ITEMS] = self._count_items(batch)
            return batch
        rows = max(remainder - self._train_batch_size * args.process_index, 0)
        batch = slice_tensors(batch, slice(0, max(rows, 1)))
        batch[_NUM_ITEMS] = self._count_items(batch) if rows else 0
        return batch

    # Losses and gradients that are not finite

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """As the stock method; remembers whether the loss was finite, without waiting for the device."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._losses_are_finite &= torch.isfinite(loss)
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Tensor | float:
        # The last call before the optimizer's step: the weights are still those of the step before.
        norm = super()._get_grad_norm(model, grad_norm)
        finite = self._losses_are_finite
        if (
            self.accelerator.scaler is None
        ):  # an fp16 scaler skips steps whose gradients overflow, and goes on
            finite = finite & torch.isfinite(torch.as_tensor(norm, device=finite.device))
        if not finite:
            what = "gradient" if self._losses_are_finite else "training loss"
            raise UserError(
                f"{what} is not finite at step {self.state.global_step + 1} "
                f"(epoch {self.state.epoch or 0:.2f}, learning_rate={self.args.learning_rate}); the step was not "
                f"taken and the checkpoints in {self.args.output_dir} hold finite weights: "
                "resume with a lower learning_rate, and look for labels that are not finite"
            )
        return norm

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if (
            not self.control.should_training_stop
        ):  # set before the first step where patience had run out before
            super()._run_epoch(*args, **kwargs)

    # Checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        args = self.args
        run_dir = Path(self._get_output_dir(trial))
        folder = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if args.should_save:
            shutil.rmtree(folder, ignore_errors=True)  # what a killed run may have left
        self.accelerator.wait_for_everyone()
        # The stock method pushes and deletes older checkpoints when this one has no manifest yet.
        limit, push = args.save_total_limit, args.push_to_hub
        args.save_total_limit, args.push_to_hub = None, False
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise UserError(
                f"checkpoint {folder} could not be written: {' '.join(str(error).split())}; make room "
                "(save_total_limit bounds the number of checkpoints) and resume from the one before"
            ) from error
        finally:
            args.save_total_limit, args.push_to_hub = limit, push
        self.accelerator.wait_for_everyone()
        if args.should_save:
            self._save_arguments(folder)
            write_manifest(folder)
        if push:
            self._push_from_checkpoint(str(folder))
        if args.should_save:
            rotate_checkpoints(str(run_dir), limit, self.state.best_model_checkpoint, use_mtime=True)
        self.accelerator.wait_for_everyone()  # the others may be about to load the best checkpoint, this one

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if getattr(self.model, "_weight_conversions", None):
            # A model that came from an old checkpoint (`LayerNorm.gamma`) is saved under the old names otherwise.
            # The Trainer, which loads by name, would then leave these weights out.
            cast(Any, self.model)._weight_conversions = None
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            self._save_arguments(Path(output_dir or str(self.args.output_dir)))

    def _save_arguments(self, folder: Path) -> None:
        torch.save(self.args, folder / TRAINING_ARGS_NAME)
        (folder / ARGUMENTS_NAME).write_text(self.args.to_json_string() + "\n", encoding="utf-8")

    def _load_best_model(self) -> None:
        verify_checkpoint(str(self.state.best_model_checkpoint))
        super()._load_best_model()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        super()._issue_warnings_after_load(load_result)
        not_saved = getattr(self.model, "_keys_to_ignore_on_save", None) or ()
        absent = {*not_saved, *getattr(self.model, "all_tied_weights_keys", ())}
        missing = [name for name in load_result.missing_keys if name not in absent]
        unexpected = load_result.unexpected_keys
        if missing or unexpected:
            raise UserError(
                f"checkpoint does not fit {type(self.model).__name__}: {len(missing)} weights are missing, such as "
                f"{missing[:2]}, and {len(unexpected)} not expected, such as {unexpected[:2]}; "
                "resume with the model that the run began with"
            )
