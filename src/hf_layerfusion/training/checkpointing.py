"""A Trainer whose checkpoints are whole, or refused."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch import nn
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from hf_layerfusion.errors import StorageError, UserError, one_line
from hf_layerfusion.hub.manifest import write_model_manifest
from hf_layerfusion.storage import writable, write_text
from hf_layerfusion.training.adapters import read_adapters
from hf_layerfusion.training.checkpoints import (
    finish,
    make_room,
    newest_valid_checkpoint,
    rotate,
    verify_checkpoint,
    verify_resumable,
)
from hf_layerfusion.training.global_batch import (
    ARGUMENTS_NAME,
    check_global_batch,
    loss_depends_on_device_batch,
)
from hf_layerfusion.training.own_folders import remove_own
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments


class CheckpointingTrainer(Trainer):
    """The stock Trainer, whose checkpoints carry a manifest, and whose arguments are readable and hold no token."""

    args: LayerFusionTrainingArguments
    # Arguments that are set otherwise while a checkpoint is saved, as they were given.
    _set_aside: Mapping[str, Any] = MappingProxyType({})

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> TrainOutput:
        """Train, as `Trainer.train` does.

        Args:
            resume_from_checkpoint: True for the newest intact checkpoint of `output_dir`, or a folder. Those of
                `save_only_model=True` hold no optimizer state and do not count.
            *args: As for `Trainer.train`.
            **kwargs: As for `Trainer.train`.

        Raises:
            UserError: there is no intact checkpoint, the named one is damaged, holds the model alone or does not fit
                it or the global batch, or a loss or gradient is not finite.
        """
        if resume_from_checkpoint is True:
            newest = newest_valid_checkpoint(str(self.args.output_dir))
            if newest is None:
                raise UserError(
                    f"resume_from_checkpoint: {self.args.output_dir} must hold a checkpoint that is intact and has "
                    "the optimizer's state, found none; start the run anew"
                )
            resume_from_checkpoint = str(newest)
        elif resume_from_checkpoint:
            verify_resumable(resume_from_checkpoint)
        if resume_from_checkpoint:
            check_global_batch(Path(resume_from_checkpoint), self.args, self._loss_depends_on_device_batch)
        return super().train(resume_from_checkpoint or None, *args, **kwargs)

    @property
    def _loss_depends_on_device_batch(self) -> bool:
        """Return whether the loss depends on which rows share a device."""
        return loss_depends_on_device_batch(self.args)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        args = self.args
        run_dir = Path(self._get_output_dir(trial))
        folder = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if args.should_save:
            make_room(folder)
        self.accelerator.wait_for_everyone()
        # The stock method pushes and deletes older checkpoints when this one has no manifest yet.
        limit, push = args.save_total_limit, args.push_to_hub
        self._set_aside = {"save_total_limit": limit, "push_to_hub": push}
        args.save_total_limit, args.push_to_hub = None, False
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError, UserError) as error:
            remove_own(folder)
            raise StorageError(
                f"checkpoint {folder} could not be written: {one_line(error)}; make room "
                "(save_total_limit bounds the number of checkpoints) and resume from the one before"
            ) from error
        finally:
            args.save_total_limit, args.push_to_hub = limit, push
            self._set_aside = {}
        self.accelerator.wait_for_everyone()
        if args.should_save:
            with writable(f"checkpoint {folder}"):
                finish(folder)
        if push:
            self._push_from_checkpoint(str(folder))
        if args.should_save:
            rotate(run_dir, limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()  # the others may be about to load the best checkpoint, this one

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if getattr(self.model, "_weight_conversions", None):
            # A model that came from an old checkpoint (`LayerNorm.gamma`) is saved under the old names otherwise.
            # The Trainer, which loads by name, would then leave these weights out.
            cast(Any, self.model)._weight_conversions = None
        folder = Path(output_dir or str(self.args.output_dir))
        # A fast tokenizer saves how it was called last, which depends on what was found in a cache.
        if (backend := getattr(self.processing_class, "backend_tokenizer", None)) is not None:
            backend.no_truncation()
            backend.no_padding()
        try:
            super()._save(output_dir, state_dict)
            if self.args.should_save:
                self._save_arguments(folder)
                write_model_manifest(folder)
        # What safetensors and torch make of a full disk.
        except (OSError, SafetensorError, RuntimeError) as error:
            raise StorageError(
                f"{folder}: the model could not be written: {one_line(error)}; make room, or check the permissions, "
                "and go on from the last checkpoint"
            ) from error

    def _save_arguments(self, folder: Path) -> None:
        args = copy.copy(self.args)
        for name, value in self._set_aside.items():
            setattr(args, name, value)
        torch.save(args, folder / TRAINING_ARGS_NAME)
        write_text(folder / ARGUMENTS_NAME, args.to_json_string() + "\n")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        model = self.model if model is None else model
        if isinstance(model, PeftModel):
            # The stock method takes weights that are missing as well, and of several adapters trains one.
            read_adapters(model, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        folder = str(self.state.best_model_checkpoint)
        verify_checkpoint(folder)
        if isinstance(self.model, PeftModel):
            read_adapters(self.model, folder)
        else:
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
