"""A multitask run: preparation of the data, model, training and prediction."""

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from huggingface_hub.errors import StrictDataclassError
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, PreTrainedTokenizerBase, set_seed
from transformers.utils import SAFE_WEIGHTS_NAME

from hf_layerfusion import CerbertusConfig, CerbertusForMultitask, parameter_counts
from hf_layerfusion.errors import LOADING_ERRORS, UserError, one_line
from hf_layerfusion.evaluation.metrics import compute_metrics_for
from hf_layerfusion.recipes.adam import chosen_optimizer
from hf_layerfusion.recipes.adapter_setup import adapter_config, num_parameters, with_adapters
from hf_layerfusion.recipes.data_preparation import PreparedData, check_length
from hf_layerfusion.recipes.data_record import DataRecord, data_record
from hf_layerfusion.recipes.model_setup import (
    check_encoder,
    encoder_dropout,
    load_tokenizer,
    loading_options,
    resolve_path,
)
from hf_layerfusion.recipes.multitask.multitask_arguments import (
    MultitaskDataArguments,
    MultitaskModelArguments,
    MultitaskTrainingArguments,
)
from hf_layerfusion.recipes.multitask.task_preparation import (
    PREDICT,
    TaskSpec,
    check_task_names,
    make_tasks,
    prepare_task,
    tokenize_task,
)
from hf_layerfusion.recipes.run_folder import timed_training
from hf_layerfusion.recipes.run_report import split_metrics
from hf_layerfusion.training.adapters import read_adapters
from hf_layerfusion.training.best_checkpoint import BEST_OF_TASK
from hf_layerfusion.training.trainer import LayerFusionTrainer

logger = logging.getLogger(__name__)

Encoded = dict[str, dict[str, Dataset]]


@dataclass
class MultitaskData:
    """Tasks of a run with their data.

    Attributes:
        tasks: specifications by name, with labels.
        prepared: splits as texts, by task.
        encoded: splits as model inputs, by task and split.
        tokenizer: the tokenizer they were encoded with.
    """

    tasks: dict[str, TaskSpec]
    prepared: dict[str, PreparedData]
    encoded: Encoded
    tokenizer: PreTrainedTokenizerBase

    def split(self, name: str) -> dict[str, Dataset]:
        """Return a split of the tasks that have it, by task."""
        return {task: splits[name] for task, splits in self.encoded.items() if name in splits}


@dataclass
class MultitaskResult:
    """Results of a run.

    Attributes:
        metrics: by split, `TASK_METRIC` and `mean`; `best_of_each` is the test split with each task's own best epoch.
        logits: logits of the predicted splits, by task and split, `[N, C]`.
        labels: labels, like `logits`; None where there are none.
        history: the Trainer's log.
        training_seconds: training time.
        parameters: number of the model's parameters.
    """

    metrics: dict[str, dict[str, float]]
    logits: dict[str, dict[str, np.ndarray]]
    labels: dict[str, dict[str, np.ndarray | None]]
    history: list[dict[str, Any]]
    training_seconds: float
    parameters: int


def prepare_multitask(
    entries: dict[str, dict[str, Any]],
    folder: Path,
    model_arguments: MultitaskModelArguments,
    arguments: MultitaskDataArguments,
) -> list[MultitaskData]:
    """Read, prepare and tokenize the data of all tasks: of one run, or with `--folds` of each fold's.

    In a fold, every task is tested on its own fold of that number.

    Args:
        entries: entries of the tasks file.
        folder: folder that the tasks' files are relative to.
        model_arguments: arguments that name the tokenizer.
        arguments: data arguments that all tasks share.

    Raises:
        UserError: As `make_tasks`, `check_task_names`, `check_multitask_model`, `check_length`, `prepare_task` and
            `tokenize_task`.
    """
    declared = make_tasks(entries, folder, arguments)
    check_task_names(declared, arguments)
    check_multitask_model(model_arguments, declared)
    tokenizer = load_tokenizer(model_arguments)
    check_length(tokenizer, arguments, trains=True)
    parts = [MultitaskData({}, {}, {}, tokenizer) for _ in range(arguments.folds or 1)]
    for name, task in declared.items():
        notes: dict[str, None] = {}
        for part, (completed, prepared) in zip(parts, prepare_task(task), strict=True):
            part.tasks[name], part.prepared[name] = completed, prepared
            part.encoded[name] = tokenize_task(completed, prepared, tokenizer, arguments)
            notes |= dict.fromkeys(prepared.notes)
        for note in notes:
            logger.info("%s: %s", name, note)
    return parts


def tasks_record(data: MultitaskData) -> tuple[DataRecord, dict[str, str | None]]:
    """Return the fingerprints of all tasks' splits, by `TASK SPLIT`, and the files that they come from."""
    record: DataRecord = {}
    files: dict[str, str | None] = {}
    for name, prepared in data.prepared.items():
        task = data.tasks[name]
        record |= data_record(prepared, name)
        files |= {f"{name} {split}": getattr(task.data, f"{split}_file", None) for split in prepared.splits}
        files[f"{name} {PREDICT}"] = task.predict_file
    return record, files


def check_multitask_model(arguments: MultitaskModelArguments, tasks: dict[str, TaskSpec]) -> None:
    """Check settings against the encoder before data are read, by building the model without weights and with
    placeholder labels.

    Raises:
        UserError: A setting is not one of a task, or does not fit the encoder.
    """
    encoder_dropout(arguments)
    adapter_config(arguments)
    check_encoder(arguments)
    path, options = resolve_path(arguments.model_name_or_path), loading_options(arguments)
    with suppress(
        OSError, RuntimeError, NotImplementedError
    ):  # no such checkpoint, or one that cannot be built this way
        try:
            stored = AutoConfig.from_pretrained(path, **options)
            left_out = [name for name in getattr(stored, "tasks", None) or () if name not in tasks]
            if left_out:
                logger.warning(
                    "%s: its tasks %s are not in the tasks file; the trained model has no heads for them",
                    arguments.model_name_or_path,
                    ", ".join(left_out),
                )
            encoder = stored.get_text_config()
            config = CerbertusConfig(
                encoder_config=encoder.to_dict(),
                tasks={name: _with_some_labels(task, arguments) for name, task in tasks.items()},
                encoders=arguments.encoders,
                num_task_layers=arguments.num_task_layers,
            )
            with torch.device("meta"):
                CerbertusForMultitask(config)
        except (ValueError, StrictDataclassError) as error:
            raise UserError(f"--tasks_file on {arguments.model_name_or_path}: {one_line(error)}") from error


def _with_some_labels(task: TaskSpec, arguments: MultitaskModelArguments) -> dict[str, Any]:
    settings = task.settings_in(arguments) | task.settings_of("single_label_classification")
    if settings["problem_type"] == "regression" or "labels" in settings:
        return settings
    # Every loss but cross-entropy fits two classes, and the cosine head has one of these.
    takes_more = settings.get("loss") in (None, "cross_entropy") and settings.get("head") != "cosine"
    number = 3 if takes_more else 2
    return settings | {"labels": [str(label) for label in range(number)]}


def load_multitask_model(arguments: MultitaskModelArguments, tasks: dict[str, TaskSpec]) -> Any:
    """Return a `CerbertusForMultitask` with the adapters asked for: new around an encoder, or a trained checkpoint to
    train further.

    Raises:
        UserError: The checkpoint is missing, corrupt, stored as pickle, or does not fit the settings; or as
            `with_adapters`.
    """
    dropout = encoder_dropout(arguments)
    changes: dict[str, Any] = {"encoder_config": dropout} if dropout else {}
    try:
        model = CerbertusForMultitask.from_pretrained(
            resolve_path(arguments.model_name_or_path),
            tasks={name: task.settings_in(arguments) for name, task in tasks.items()},
            encoders=arguments.encoders,
            num_task_layers=arguments.num_task_layers,
            use_safetensors=None if arguments.allow_pickle else True,
            **changes,
            **loading_options(arguments),
        )
    except LOADING_ERRORS as error:
        raise UserError(f"--model_name_or_path {arguments.model_name_or_path}: {one_line(error)}") from error
    return with_adapters(model, arguments)


def make_multitask_trainer(
    data: MultitaskData,
    model_arguments: MultitaskModelArguments,
    data_arguments: MultitaskDataArguments,
    training_arguments: MultitaskTrainingArguments,
) -> LayerFusionTrainer:
    """Return a Trainer with a model whose new weights are initialized from the run's seed, without writing anything.

    Raises:
        UserError: As `load_multitask_model`.
    """
    train_tasks = data_arguments.train_tasks or list(data.tasks)
    set_seed(training_arguments.seed)
    training_arguments.task_metrics = {
        name: str(task.settings["metric"]) for name, task in data.tasks.items()
    }
    train = data.split("train")
    model = load_multitask_model(model_arguments, data.tasks)
    # The model then reads files with such labels; None for those of the checkpoint that is trained further.
    values = {
        name: list(prepared.schema.values)
        for name, prepared in data.prepared.items()
        if prepared.schema.values != prepared.schema.names
    }
    model.config.task_label_values = values or None
    return LayerFusionTrainer(
        model=model,
        args=training_arguments,
        train_dataset={name: train[name] for name in train_tasks},
        eval_dataset=data.split("validation"),
        processing_class=data.tokenizer,
        compute_metrics={
            name: compute_metrics_for(prepared.schema.problem_type)
            for name, prepared in data.prepared.items()
        },
        optimizer_cls_and_kwargs=chosen_optimizer(training_arguments),
    )


def train_multitask(trainer: LayerFusionTrainer, data: MultitaskData) -> MultitaskResult:
    """Train, predict all splits except training with the selected model, and evaluate each task's own best model on
    test.

    The selected model has the best mean over the tasks.
    """
    arguments: MultitaskTrainingArguments = trainer.args
    trainer.frozen_states.further = [
        rows for split in ("test", PREDICT) for rows in data.split(split).values()
    ]
    seconds = timed_training(trainer)
    metrics: dict[str, dict[str, float]] = {}
    logits: dict[str, dict[str, np.ndarray]] = {name: {} for name in data.tasks}
    labels: dict[str, dict[str, np.ndarray | None]] = {name: {} for name in data.tasks}
    for split in ("validation", "test", PREDICT):
        rows = data.split(split)
        if not rows:
            continue
        for name, output in trainer.predict(rows, metric_key_prefix=split).items():
            logits[name][split], labels[name][split] = output.predictions, output.label_ids
            metrics.setdefault(split, {}).update(split_metrics(output, split))
        _add_mean(metrics.get(split, {}), data.tasks)
    if arguments.best_of_each_task and arguments.eval_strategy != "no":
        metrics["best_of_each"] = _best_of_each(trainer, data)
    parameters = num_parameters(trainer.model)
    return MultitaskResult(metrics, logits, labels, trainer.state.log_history, seconds, parameters)


def _add_mean(metrics: dict[str, float], tasks: dict[str, TaskSpec]) -> None:
    """Add the mean over the tasks' main metrics, if all of them are there."""
    names = [f"{name}_{task.settings['metric']}" for name, task in tasks.items()]
    if all(name in metrics for name in names):
        metrics["mean"] = float(np.mean([metrics[name] for name in names]))


def _best_of_each(trainer: LayerFusionTrainer, data: MultitaskData) -> dict[str, float]:
    chosen = {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}
    metrics: dict[str, float] = {}
    test = data.split("test")
    for task in test:
        folder = Path(str(trainer.args.output_dir)) / f"{BEST_OF_TASK}-{task}"
        if not folder.exists():  # never validated, or its metric was always undefined, such as a correlation
            logger.info("%s: has no best epoch, because its metric was never defined", task)
            continue
        if isinstance(trainer.model, PeftModel):
            read_adapters(trainer.model, folder)
        else:
            trainer.model.load_state_dict(load_file(folder / SAFE_WEIGHTS_NAME))
        output = trainer.predict({task: test[task]}, metric_key_prefix="test")[task]
        metrics |= split_metrics(output, "test")
    trainer.model.load_state_dict(chosen)
    _add_mean(metrics, data.tasks)
    return metrics


def architecture_counts(
    arguments: MultitaskModelArguments, tasks: dict[str, TaskSpec]
) -> dict[str, dict[str, Any]]:
    """Return the parameter counts of every way to share an encoder (SerBERTus, Tables 6 and 7), by name, without
    loading weights.

    Each value holds the fields of `ParameterCounts`.

    Raises:
        UserError: The encoder's configuration cannot be loaded, or a task does not fit it.
    """
    try:
        encoder = AutoConfig.from_pretrained(
            resolve_path(arguments.model_name_or_path), **loading_options(arguments)
        ).get_text_config()  # for one of this package's checkpoints, that of its encoder
        settings = {name: task.settings_in(arguments) for name, task in tasks.items()}
        shapes = [(["shared"], k) for k in range(encoder.num_hidden_layers + 1)]
        shapes += [(["own"], 0), (["shared", "own"], 0), (["shared", "frozen"], 0)]
        counts = {}
        for encoders, k in shapes:
            config = CerbertusConfig(
                encoder_config=encoder, tasks=settings, encoders=encoders, num_task_layers=k
            )
            try:
                counts[config.paper_name] = parameter_counts(config)._asdict()
            except ValueError:
                if k == 0:
                    raise
                # Tasks cannot have copies of the layers of encoders such as ALBERT.
        return counts
    except LOADING_ERRORS as error:
        raise UserError(f"--model_name_or_path {arguments.model_name_or_path}: {one_line(error)}") from error
