"""Runs the cells of a table, several at once, each once."""

import functools
import json
import multiprocessing
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeAlias

import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import HfArgumentParser, PreTrainedTokenizerBase

from hf_layerfusion.errors import UserError
from hf_layerfusion.experiments.arguments import (
    AbsaDataArguments,
    AbsaTrainingArguments,
    DataArguments,
    ModelArguments,
    NliDataArguments,
    NliTrainingArguments,
    PoolingModelArguments,
    TweetTrainingArguments,
)
from hf_layerfusion.experiments.folds import prepare_folds
from hf_layerfusion.experiments.models import load_tokenizer
from hf_layerfusion.experiments.prepare import PreparedData, prepare, tokenize
from hf_layerfusion.experiments.report import epoch_rows
from hf_layerfusion.experiments.run import make_trainer, train_and_predict, write_json
from hf_layerfusion.experiments.tables import Run, Table
from hf_layerfusion.training.checkpoints import newest_valid_checkpoint

FILE_SETTINGS = ("train_file", "validation_file", "test_file")

# The arguments of the script whose defaults a table's settings differ from.
RECIPES: dict[str, tuple[type, type, type]] = {
    "tweets": (ModelArguments, DataArguments, TweetTrainingArguments),
    "absa": (PoolingModelArguments, AbsaDataArguments, AbsaTrainingArguments),
    "nli": (PoolingModelArguments, NliDataArguments, NliTrainingArguments),
}

Prepared: TypeAlias = tuple[PreparedData, dict[str, Dataset]]


def pending_runs(table: Table, results: Path, overrides: Mapping[str, Any]) -> list[Run]:
    """The runs of a table that have no result file yet.

    Raises:
        UserError: if a result file comes from other settings.
    """
    pending = []
    for run in table.runs(overrides):
        file = run.file(results)
        if not file.exists():
            pending.append(run)
        elif (stored := json.loads(file.read_text(encoding="utf-8"))["settings"]) != run.settings:
            changed = sorted(
                name for name in {*stored, *run.settings} if stored.get(name) != run.settings.get(name)
            )
            raise UserError(
                f"{file}: was made with other settings ({', '.join(changed)}); move it away, or give another "
                "--results folder."
            )
    return pending


@functools.lru_cache(maxsize=4)
def _prepared(
    recipe: str, model_settings: str, data_settings: str
) -> tuple[list[Prepared], PreTrainedTokenizerBase]:
    """The data of a run, or of each fold of a cross-validation."""
    model_class, data_class, _ = RECIPES[recipe]
    arguments = data_class(**json.loads(data_settings))
    tokenizer = load_tokenizer(model_class(**json.loads(model_settings)))
    parts = prepare_folds(arguments) if getattr(arguments, "folds", None) else [prepare(arguments)]
    return [(data, tokenize(data, tokenizer, arguments)) for data in parts], tokenizer


def execute(run: Run, data_dir: Path, results: Path, work: Path) -> Path:
    """Trains one run, or goes on with it where it was cut off, and writes its result file.

    Args:
        run: what to run.
        data_dir: folder that the run's files are relative to.
        results: folder of the result files.
        work: folder for checkpoints; the run's part of it is removed when the run has finished.

    Returns:
        The result file.
    """
    folder = work / run.group / run.variant / run.name
    settings = dict(run.settings)
    for name in FILE_SETTINGS:
        if settings.get(name) is not None:
            settings[name] = str(data_dir / settings[name])
    parser = HfArgumentParser(RECIPES[run.recipe])
    checkpoint = newest_valid_checkpoint(folder) if folder.exists() else None
    resume = str(checkpoint) if checkpoint else None
    model_arguments, data_arguments, training_arguments = parser.parse_dict(
        {**settings, "output_dir": str(folder), "disable_tqdm": True, "resume_from_checkpoint": resume}
    )
    tokenizer_settings = {
        name: getattr(model_arguments, name)
        for name in ("model_name_or_path", "tokenizer_name", "model_revision")
    }
    parts, tokenizer = _prepared(run.recipe, json.dumps(tokenizer_settings), json.dumps(vars(data_arguments)))
    data, encoded = parts[0 if run.fold is None else run.fold - 1]
    trainer = make_trainer(data, encoded, tokenizer, model_arguments, training_arguments)
    result = train_and_predict(trainer, encoded)
    labels = [] if result.labels is None else result.labels.tolist()
    file = run.file(results)
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "settings": run.settings,
        "metrics": result.metrics,
        "parameters": result.parameters,
        "training_seconds": result.training_seconds,
        "num_examples": {name: len(split) for name, split in data.splits.items()},
        "epochs": epoch_rows(result.history),
        "threads": torch.get_num_threads(),
        "predictions": " ".join(map(str, result.logits.argmax(axis=1))),
        "labels": " ".join(map(str, labels)),
    }
    write_json(file, content)
    shutil.rmtree(folder, ignore_errors=True)
    return file


def run_table(
    table: Table,
    *,
    data_dir: Path,
    results: Path,
    work: Path,
    jobs: int = 1,
    overrides: Mapping[str, Any] | None = None,
) -> None:
    """Executes every pending run of a table, `jobs` at once, with a progress bar that says the time left."""
    runs = pending_runs(table, results, overrides or {})
    threads = max(1, (os.cpu_count() or 1) // jobs)
    # A fresh interpreter a job: torch's thread pools do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(
            jobs,
            mp_context=context,
            initializer=torch.set_num_threads,
            initargs=(threads,),
            max_tasks_per_child=10,  # bounds what the allocator keeps from batches of many lengths
        ) as pool,
        tqdm(total=len(runs), desc=table.name, unit="run", smoothing=0.1) as progress,
    ):
        futures = {pool.submit(execute, run, data_dir, results, work): run for run in runs}
        for future in as_completed(futures):
            future.result()
            progress.set_postfix_str(f"{futures[future].variant} {futures[future].name}")
            progress.update()
