"""Further pretraining of an encoder, from text files to a folder with the encoder."""

import dataclasses
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from hf_layerfusion.errors import LOADING_ERRORS, UserError, one_line
from hf_layerfusion.recipes.data_record import DATA, check_record
from hf_layerfusion.recipes.model_setup import (
    check_encoder,
    encoder_dropout,
    load_tokenizer,
    loading_options,
    resolve_path,
)
from hf_layerfusion.recipes.pretraining.pretraining_arguments import (
    PretrainingArguments,
    PretrainingDataArguments,
)
from hf_layerfusion.recipes.pretraining.pretraining_data import TRAIN, VALIDATION, open_streams
from hf_layerfusion.recipes.publishing import open_hub, planned_push
from hf_layerfusion.recipes.recipe_arguments import EncoderArguments
from hf_layerfusion.recipes.run_folder import (
    named_checkpoint,
    open_run,
    resume_point,
    run_once,
    run_settings,
    save_trained,
)
from hf_layerfusion.run_layout import RESULTS_FILE, START_FILE, find, records
from hf_layerfusion.storage import read_object, writable, write_json
from hf_layerfusion.training.model_preparation import group_rows
from hf_layerfusion.training.objectives import Objective, make_objective
from hf_layerfusion.training.pretraining import PretrainingTrainer, check_arguments
from hf_layerfusion.training.text_stream import TextStream
from hf_layerfusion.training.trainer_card import NO_METRIC

__all__ = ["pretrain"]

logger = logging.getLogger(__name__)

# Settings that replace the run's while the head is trained alone.
HEAD_SETTINGS: dict[str, Any] = {
    "freeze_encoder": True,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "linear",
    "lr_scheduler_kwargs": None,
    "warmup_steps": 0,
    "fusion_learning_rate": None,
    "head_learning_rate": None,
    "embedding_learning_rate": None,
    "layer_decay": 1.0,
    "frozen_layers": 0,
    "unfreeze_per_epoch": None,
    "epoch_decay": 1.0,
    "logging_strategy": "steps",
    "weight_interpolation": None,
    "eval_strategy": "no",
    "eval_on_start": False,
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "early_stopping_patience": None,
    "push_to_hub": False,
}


def load_pretraining_model(
    arguments: EncoderArguments, objective: Objective
) -> tuple[PreTrainedModel, list[str]]:
    """Return the model that the objective trains, and the names of its randomly initialized weights.

    The encoder is loaded completely, as by `AutoModel`: a pooler that the objective does not use is kept unchanged.
    The randomly initialized weights are those of a language-model head that the checkpoint lacks.

    Raises:
        UserError: The checkpoint is missing, corrupt, stored as pickle, not a plain encoder, or lacks weights of one;
            or as the objective's `check_model`.
    """
    options = {**loading_options(arguments), **encoder_dropout(arguments)}
    options["use_safetensors"] = None if arguments.allow_pickle else True
    path = resolve_path(arguments.model_name_or_path)
    try:
        model, found = objective.model_class.from_pretrained(path, output_loading_info=True, **options)
        missing = set(found["missing_keys"])
        prefix = f"{model.base_model_prefix}." if model.base_model is not model else ""
        if prefix:
            encoder, of_encoder = AutoModel.from_pretrained(path, output_loading_info=True, **options)
            if type(encoder) is type(model.base_model) and not of_encoder["missing_keys"]:
                setattr(model, model.base_model_prefix, encoder)
                model.tie_weights()
    except LOADING_ERRORS as error:
        raise UserError(f"--model_name_or_path {arguments.model_name_or_path}: {one_line(error)}") from error
    objective.check_model(model)
    pooler = getattr(model.base_model, "pooler", None)
    of_pooler = {name for name in missing if name.startswith(f"{prefix}pooler.")}
    lacking = sorted(name for name in missing - of_pooler if name.startswith(prefix))
    if lacking:
        raise UserError(
            f"--model_name_or_path {arguments.model_name_or_path}: lacks weights of the encoder, such as {lacking[0]}; "
            "name a complete checkpoint."
        )
    if objective.uses_pooler:
        return model, sorted(missing)
    if of_pooler:
        model.base_model.pooler = (
            None  # randomly initialized, so it must not be saved as if it were pretrained
        )
    elif pooler is not None:
        pooler.requires_grad_(False)
    return model, sorted(missing - of_pooler)


@dataclass
class Pretraining:
    """`Experiment` for further pretraining.

    Attributes:
        model_arguments: the encoder's arguments.
        objective: the training objective.
        tokenizer: the tokenizer of the texts.
        streams: texts of `train` and, if there are any, `validation`.
        settings: settings as `run_settings` returns them.
        missing: names of the weights that the checkpoint lacks, once the model is loaded.
    """

    outputs = ("config.json",)

    model_arguments: EncoderArguments
    objective: Objective
    tokenizer: PreTrainedTokenizerBase
    streams: dict[str, TextStream]
    settings: dict[str, Any]
    missing: list[str] = field(default_factory=list)

    def make_trainer(self, arguments: PretrainingArguments) -> PretrainingTrainer:
        """Return the run's Trainer, with a head initialized from the seed; raises what `load_pretraining_model`
        raises."""
        set_seed(arguments.seed)
        model, self.missing = load_pretraining_model(self.model_arguments, self.objective)
        return self.trainer_of(model, arguments, self.streams[TRAIN], self.streams.get(VALIDATION))

    def trainer_of(
        self,
        model: PreTrainedModel,
        arguments: PretrainingArguments,
        texts: TextStream,
        held_out: TextStream | None = None,
    ) -> PretrainingTrainer:
        """Return a Trainer of the model on the texts."""
        return PretrainingTrainer(
            model,
            arguments,
            self.objective,
            self.tokenizer,
            train_dataset=texts,
            eval_dataset=held_out,
        )

    def train(self, trainer: PretrainingTrainer) -> dict[str, Any]:
        """Train the head alone if the checkpoint has none, then all weights. A resumed run skips the first part.

        Returns:
            The logged training losses by step, and the loss on held-out texts before and after training.
        """
        arguments: PretrainingArguments = trainer.args
        folder, checkpoint = Path(str(arguments.output_dir)), resume_point(arguments)
        if checkpoint is None:
            start: dict[str, Any] = {}
            if self.missing and arguments.head_steps:
                start = self.train_head(trainer.model, arguments)
                set_seed(arguments.seed)
            start |= _held_out(trainer, "start")
            if arguments.process_index == 0:
                with writable(f"--output_dir {folder}"):
                    write_json(records(folder) / START_FILE, start)
            trainer.accelerator.wait_for_everyone()  # the others read it too
        read_start(folder)  # reports a damaged file before the training
        started = time.perf_counter()
        output = trainer.train(resume_from_checkpoint=checkpoint)
        seconds = time.perf_counter() - started
        return {
            **read_start(folder),
            "texts": len(self.streams[TRAIN]),
            "steps": output.global_step,
            "losses": {
                entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry
            },
            "training_seconds": seconds,
            **_held_out(trainer, "validation"),
        }

    def train_head(self, model: PreTrainedModel, arguments: PretrainingArguments) -> dict[str, Any]:
        """Train a randomly initialized head with the encoder frozen, including embeddings and weights tied to them.

        Its first gradients would otherwise damage the encoder.

        Returns:
            The number of steps, and the first and last logged loss.
        """
        steps = arguments.head_steps
        logger.info(
            "the checkpoint has no language-model head (%d weights, such as %s): it is trained alone first, for %d "
            "steps with the encoder frozen",
            len(self.missing),
            self.missing[0],
            steps,
        )
        was_trained = {name: weight.requires_grad for name, weight in model.named_parameters()}
        changes = HEAD_SETTINGS | {"max_steps": steps, "logging_steps": max(1, steps // 10)}
        # Other masks than in the training of all weights, whose loss would otherwise look better than it is.
        texts = self.streams[TRAIN].with_draws_of(arguments.seed + 1)
        alone = self.trainer_of(model, dataclasses.replace(arguments, **changes), texts)
        alone.train()
        for name, weight in model.named_parameters():
            weight.requires_grad_(was_trained[name])
        losses = [entry["loss"] for entry in alone.state.log_history if "loss" in entry]
        logger.info("the head is trained: its loss went from %.2f to %.2f", losses[0], losses[-1])
        return {"head_steps": steps, "head_first_loss": losses[0], "head_last_loss": losses[-1]}

    def write(self, trainer: PretrainingTrainer, result: dict[str, Any], folder: Path) -> None:
        """Write the model, tokenizer and results."""
        save_trained(trainer, folder)
        write_json(records(folder) / RESULTS_FILE, result)


def read_start(folder: Path) -> dict[str, Any]:
    """Return the measurements made before the first step.

    Raises:
        UserError: if that file of the run is missing or damaged.
    """
    return read_object(find(folder, START_FILE), "delete the run's checkpoints to start again")


def _held_out(trainer: PretrainingTrainer, prefix: str) -> dict[str, float]:
    """Return the loss and the objective's metrics on held-out texts, empty without them."""
    if trainer.eval_dataset is None:
        return {}
    found = trainer.evaluate(metric_key_prefix=prefix)
    return {name: found[name] for name in found if not name.endswith((*NO_METRIC, "epoch"))}


def pretrain(
    model_arguments: EncoderArguments,
    data_arguments: PretrainingDataArguments,
    training_arguments: PretrainingArguments,
) -> dict[str, Any]:
    """Run the script: stream the texts, train the head if there is none and then all weights, and save model and
    tokenizer."""
    arguments = training_arguments
    settings = run_settings(model_arguments, data_arguments, arguments)
    objective = make_objective(arguments.objective)
    if objective.least_batch > 1:  # a loss that compares the rows of a device
        settings["per_device_train_batch_size"] = arguments.per_device_train_batch_size
    check_arguments(arguments, objective)
    if arguments.head_steps < 0:
        raise UserError(f"--head_steps must be 0 or more, found {arguments.head_steps}.")
    with open_run(arguments, settings):
        if arguments.process_index == 0 and not arguments.dry_run:
            open_hub(arguments)
        check_encoder(model_arguments, objective.model_class)
        tokenizer = load_tokenizer(model_arguments)
        seed = arguments.seed if arguments.data_seed is None else arguments.data_seed
        streams, record = open_streams(data_arguments, tokenizer, seed, objective)
        if arguments.eval_strategy != "no" and VALIDATION not in streams:
            raise UserError(
                f"--eval_strategy {arguments.eval_strategy.value} needs held-out texts, found none; name "
                "--validation_file or --validation_fraction."
            )
        if arguments.dry_run:
            model, _ = load_pretraining_model(model_arguments, objective)
            return {"groups": group_rows(model, arguments), **planned_push(arguments)}
        files = {name: ", ".join(getattr(data_arguments, f"{name}_file") or ()) for name in record}
        check_record(Path(str(arguments.output_dir)), record, files, named_checkpoint(arguments))
        settings |= {DATA: record}
        experiment = Pretraining(model_arguments, objective, tokenizer, streams, settings)
        return run_once(experiment, arguments, Path(str(arguments.output_dir)))
