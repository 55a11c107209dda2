"""One fine-tuning run, from prepared data to a folder with model, card, plots and predictions."""

import dataclasses
import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.optim import Optimizer
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase, Trainer, set_seed

from hf_layerfusion.data.statistics import plot_word_counts, word_counts
from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.metrics import compute_metrics_for
from hf_layerfusion.evaluation.plots import plot_confusion_matrix, plot_regression, plot_training_curves
from hf_layerfusion.evaluation.predictions import write_predictions
from hf_layerfusion.evaluation.significance import mean_sd
from hf_layerfusion.experiments.arguments import (
    DataArguments,
    EncoderArguments,
    ModelArguments,
    RunTrainingArguments,
)
from hf_layerfusion.experiments.for_ensembles import write_seen_texts, write_split_logits
from hf_layerfusion.experiments.layer_states import (
    PLOT_FILE,
    LayerStates,
    check_layer_states,
    plot_states,
)
from hf_layerfusion.experiments.layers import layers_section, measure_layers
from hf_layerfusion.experiments.models import load_model, load_tokenizer
from hf_layerfusion.experiments.multitask_arguments import MultitaskDataArguments
from hf_layerfusion.experiments.prepare import PreparedData, prepare, tokenize
from hf_layerfusion.experiments.report import RunResult, card_facts, texts_and_labels
from hf_layerfusion.hub.card import build_card
from hf_layerfusion.training.checkpoints import newest_valid_checkpoint
from hf_layerfusion.training.optimizer import group_rows
from hf_layerfusion.training.trainer import LayerFusionTrainer

logger = logging.getLogger(__name__)

SETTINGS_FILE = "run.json"
RESULTS_FILE = "all_results.json"


def check_output_dir(arguments: RunTrainingArguments, settings: dict[str, Any]) -> None:
    """Refuses a folder that holds anything but this very run.

    Raises:
        UserError: if `--output_dir` is missing, is a file, or holds another run or foreign files.
    """
    if not arguments.output_dir:
        raise UserError("--output_dir must name the folder of the run, found none; name one.")
    folder = Path(arguments.output_dir)
    if folder.is_file():
        raise UserError(f"--output_dir {folder}: must be a folder, found a file; name another.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    stored = folder / SETTINGS_FILE
    if not arguments.resume_from_checkpoint or not stored.exists():
        raise UserError(
            f"--output_dir {folder}: must be empty, found another run's files; name another folder, or go on with that "
            "run by --resume_from_checkpoint True."
        )
    earlier = json.loads(stored.read_text(encoding="utf-8"))
    changed = sorted(name for name in settings if earlier.get(name) != settings[name])
    if changed:
        raise UserError(
            f"--output_dir {folder}: holds a run with other settings ({', '.join(changed)}); name another folder or "
            "take those settings back."
        )


def run_settings(
    model_arguments: EncoderArguments,
    data_arguments: DataArguments | MultitaskDataArguments,
    training_arguments: RunTrainingArguments,
) -> dict[str, Any]:
    """The settings of a run that its results depend on, as JSON; no token, no folder of outputs."""
    training = json.loads(training_arguments.to_json_string())
    settings = {**dataclasses.asdict(model_arguments), **dataclasses.asdict(data_arguments), **training}
    for name in ("token", "hub_token", "output_dir", "resume_from_checkpoint", "logging_dir", "run_name"):
        settings.pop(name, None)
    return settings


def resume_point(arguments: RunTrainingArguments) -> str | None:
    """The checkpoint to go on from: the one named, or with `--resume_from_checkpoint True` the newest intact one of
    the run; `None` where the run was cut off before its first."""
    asked = arguments.resume_from_checkpoint
    if asked is None or asked.lower() in ("false", "no"):
        return None
    if asked.lower() not in ("true", "yes"):
        return asked
    folder = Path(str(arguments.output_dir))
    newest = newest_valid_checkpoint(folder) if folder.exists() else None
    if newest is None:
        logger.info("%s: no checkpoint yet, so the run starts anew", arguments.output_dir)
    return None if newest is None else str(newest)


def make_trainer(
    data: PreparedData,
    encoded: dict[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    model_arguments: ModelArguments,
    training_arguments: RunTrainingArguments,
) -> LayerFusionTrainer:
    """The model of a run, its new weights drawn by the run's seed, in its Trainer. Writes nothing.

    Raises:
        UserError: as `load_model`.
    """
    set_seed(training_arguments.seed)
    return LayerFusionTrainer(
        model=load_model(model_arguments, data.schema),
        args=training_arguments,
        train_dataset=encoded["train"],
        eval_dataset=encoded.get("validation"),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics_for(data.schema.problem_type),
        optimizer_cls_and_kwargs=None
        if training_arguments.decoupled_weight_decay
        else _adam(training_arguments),
    )


def _adam(arguments: RunTrainingArguments) -> tuple[type[Optimizer], dict[str, Any]]:
    # `--optim` knows AdamW alone, whose decay by rate × weight_decay is another thing than L2 in the gradient.
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    if optimizer_class is not torch.optim.AdamW:
        raise UserError(
            f"--decoupled_weight_decay False makes Adam of AdamW, found --optim {arguments.optim.value}; set one "
            "of them to its default."
        )
    return torch.optim.Adam, options


def train_and_predict(trainer: LayerFusionTrainer, encoded: dict[str, Dataset]) -> RunResult:
    """Trains, then predicts the test split, or the validation split where there is none."""
    arguments: RunTrainingArguments = trainer.args
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=resume_point(arguments))
    seconds = time.perf_counter() - start
    metrics: dict[str, dict[str, float]] = {}
    logits, labels = np.empty((0, trainer.model.num_labels)), None
    scored = [split for split in ("validation", "test") if split in encoded]
    if arguments.eval_strategy == "no":
        scored = scored[-1:]  # validation takes no part in the run unless there is nothing else to predict
    for split in scored:
        output = trainer.predict(encoded[split], metric_key_prefix=split)
        logits = output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
        labels = output.label_ids
        if labels is not None:
            metrics[split] = {
                name.removeprefix(f"{split}_"): value
                for name, value in (output.metrics or {}).items()
                if not name.endswith(("_runtime", "_per_second", "_preparation_time"))
            }
    parameters = trainer.model.num_parameters()
    return RunResult(metrics, logits, labels, trainer.state.log_history, seconds, parameters)


def write_outputs(
    folder: Path,
    data: PreparedData,
    result: RunResult,
    trainer: LayerFusionTrainer,
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    training_arguments: RunTrainingArguments,
    beside: dict[str, Any],
) -> None:
    """Writes model, tokenizer, results, predictions, plots and card into `folder`; `beside` are the layers' states of
    another run to draw."""
    trainer.save_model(str(folder))
    trainer.save_state()
    write_seen_texts(folder, [data])
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    figures = []
    if data.schema.problem_type == "single_label_classification":
        names = data.schema.names
        before = word_counts(*texts_and_labels(data.raw_train, data.text_columns[0]))
        train = data.splits["train"]
        after = word_counts(train[data.text_columns[0]], [names[label] for label in train["label"]])
        plot_word_counts(plots / "word_counts.png", before, after)
        figures.append(
            ("Words a text in the training data, before and after cleaning.", "plots/word_counts.png")
        )
    if "validation" in data.splits:
        plot_training_curves(result.history, plots / "training_curves.png")
        figures.append(("Loss and accuracy by epoch.", "plots/training_curves.png"))
    if training_arguments.plot_layers:
        plot_states(folder, beside, data.schema.names, plots / PLOT_FILE)
        figures.append(
            (
                "The first token's states at the last six layers, on two principal components.",
                f"plots/{PLOT_FILE}",
            )
        )
    sections = []
    if trainer.eval_dataset is not None:
        use = measure_layers(trainer, trainer.eval_dataset, plots / "layer_use.png")
        if use is not None:
            write_json(folder / "layer_use.json", dataclasses.asdict(use))
            sections.append(("Which layers the model uses", layers_section(use)))
            figures.append(("Loss of accuracy without a layer.", "plots/layer_use.png"))
    split = "test" if "test" in data.splits else "validation"
    if split in data.splits:
        rows = data.splits[split]
        write_predictions(
            folder / "predictions.csv",
            ids=rows["id"],
            texts={column: rows[column] for column in data.text_columns},
            logits=result.logits,
            problem_type=data.schema.problem_type,
            label_names=data.schema.names,
            format=data_arguments.prediction_format,  # type: ignore[arg-type]
        )
        write_split_logits(folder, data, rows, result.logits)
        if result.labels is not None and data.schema.problem_type == "single_label_classification":
            path = plots / "confusion_matrix.png"
            plot_confusion_matrix(result.labels, result.logits.argmax(axis=1), data.schema.names, path)
            figures.append((f"Confusion matrix on {split}.", "plots/confusion_matrix.png"))
        elif result.labels is not None and data.schema.problem_type == "regression":
            plot_regression(result.labels, result.logits, plots / "regression.png")
            figures.append((f"Predicted against true values on {split}.", "plots/regression.png"))
    results = {
        f"{name}_{metric}": v for name, values in result.metrics.items() for metric, v in values.items()
    }
    results |= {"training_seconds": result.training_seconds, "parameters": result.parameters}
    results["epochs"] = trainer.state.epoch
    write_json(folder / RESULTS_FILE, results)
    facts = card_facts(
        folder, data, result, trainer.model, model_arguments, data_arguments, training_arguments, figures
    )
    facts.sections += sections
    build_card(facts).save(folder / "README.md")


def write_json(path: Path, content: Any) -> None:
    """Writes JSON whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def run_in_folder(
    folder: Path,
    seed: int,
    data: PreparedData,
    encoded: dict[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    training_arguments: RunTrainingArguments,
) -> dict[str, Any]:
    """Trains, predicts and writes outputs into `folder`, which is `--output_dir` or lies in it, unless that was done
    before. The settings are written into `--output_dir` once the model stands.

    Returns:
        The contents of the folder's `all_results.json`.

    Raises:
        UserError: as `make_trainer` and `LayerFusionTrainer.train`.
    """
    if (folder / RESULTS_FILE).exists():
        logger.info("%s: finished before", folder)
    else:
        changes: dict[str, Any] = {"seed": seed, "output_dir": str(folder)}
        if data_arguments.train_on_all:
            # Nothing is left to choose a checkpoint on.
            changes |= {
                "eval_strategy": "no",
                "load_best_model_at_end": False,
                "early_stopping_patience": None,
            }
        arguments = dataclasses.replace(training_arguments, **changes)
        beside = check_layer_states(arguments, data.schema.problem_type, encoded.get("validation"))
        trainer = make_trainer(data, encoded, tokenizer, model_arguments, arguments)
        if arguments.plot_layers:
            title = getattr(trainer.model.config, "variant", "plain")
            trainer.add_callback(LayerStates(trainer, encoded["validation"], title, folder))
        main_process = arguments.process_index == 0
        if main_process:
            folder.mkdir(parents=True, exist_ok=True)
            settings = run_settings(model_arguments, data_arguments, training_arguments)
            write_json(Path(str(training_arguments.output_dir)) / SETTINGS_FILE, settings)
        result = train_and_predict(trainer, encoded)
        if main_process:
            write_outputs(folder, data, result, trainer, model_arguments, data_arguments, arguments, beside)
        trainer.accelerator.wait_for_everyone()
    results: dict[str, Any] = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
    return results


def summary_of(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation of each result over several runs."""
    summary: dict[str, dict[str, float | None]] = {}
    for name in runs[0]:
        mean, sd = mean_sd([run[name] for run in runs])
        summary[name] = {"mean": mean, "sd": sd}
    return summary


def classify(
    model_arguments: ModelArguments, data_arguments: DataArguments, training_arguments: RunTrainingArguments
) -> dict[str, Any]:
    """The whole of a script without folds: prepares the data once, then trains, predicts and writes outputs for each
    seed; several seeds get a folder each and a summary above them.

    Returns:
        The contents of `all_results.json`; with `--dry_run`, which trains nothing, the `groups` of parameters.

    Raises:
        UserError: for whatever the user can mend.
    """
    if not training_arguments.dry_run:
        check_output_dir(
            training_arguments, run_settings(model_arguments, data_arguments, training_arguments)
        )
    tokenizer = load_tokenizer(model_arguments)
    with training_arguments.main_process_first(desc="preparing the texts"):
        data = prepare(data_arguments)
        encoded = tokenize(data, tokenizer, data_arguments)
    for note in data.notes:
        logger.info(note)
    if training_arguments.dry_run:
        return {"groups": group_rows(load_model(model_arguments, data.schema), training_arguments)}
    top = Path(str(training_arguments.output_dir))
    seeds = training_arguments.seeds or [training_arguments.seed]
    runs = [
        run_in_folder(
            top if len(seeds) == 1 else top / f"seed-{seed}",
            seed,
            data,
            encoded,
            tokenizer,
            model_arguments,
            data_arguments,
            training_arguments,
        )
        for seed in seeds
    ]
    if len(seeds) == 1:
        return runs[0]
    summary = {"seeds": seeds, **summary_of(runs)}
    if training_arguments.process_index == 0:
        write_json(top / RESULTS_FILE, summary)
    return summary
