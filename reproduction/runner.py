"""Runner of a table's runs: several at once, each performed once."""

from collections.abc import Mapping
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.run_folder import output_folder
from hf_layerfusion.storage import writable, write_json
from hf_layerfusion.training.checkpoints import newest_valid_checkpoint
from hf_layerfusion.training.own_folders import is_own, make_own, remove_own
from reproduction.further_pretraining import missing_texts, start_from_pretrained
from reproduction.imported_embeddings import missing_files, start_from_embeddings
from reproduction.peak_memory import peak_memory, reset_peak_memory
from reproduction.run_recipes import RUN_RECIPES
from reproduction.run_table import RunTable, TableRun
from reproduction.run_teachers import start_from_teacher
from reproduction.table_rows import read_run_file
from reproduction.workers import visible_devices, worker_pool

RUNS_A_PROCESS = 10
# Settings that affect the files of a checkpoint but not what a run measures.
CHECKPOINT_SETTINGS = ("save_only_model", "save_total_limit")


def pending_runs(table: RunTable, results: Path, overrides: Mapping[str, Any]) -> list[TableRun]:
    """Return the runs of a table without a result file.

    Raises:
        UserError: A result file was made with other settings.
    """
    pending = []
    for run in table.runs(overrides):
        file = run.file(results)
        if not file.exists():
            pending.append(run)
            continue
        stored = read_run_file(file, "settings")["settings"]
        changed = sorted(
            name
            for name in {*stored, *run.settings} - {*CHECKPOINT_SETTINGS}
            if stored.get(name) != run.settings.get(name)
        )
        if changed:
            raise UserError(
                f"{file}: was made with other settings ({', '.join(changed)}); move it away, or give another "
                "--results folder."
            )
    return pending


def execute(run: TableRun, data_dir: Path, results: Path, work: Path) -> Path:
    """Train one run, resuming it if it was interrupted, and write its result file.

    Args:
        run: the run.
        data_dir: folder that the run's files are relative to.
        results: folder of the result files.
        work: folder for checkpoints and shared encoders. The run's part is removed when it has finished.

    Returns:
        The result file.

    Raises:
        UserError: The run's part of `work` contains something else.
    """
    folder, file = work / run.group / run.variant / run.name, run.file(results)
    if folder.exists() and not is_own(folder):
        raise UserError(
            f"{folder}: must be new or a run's own, found something else; name another --work folder."
        )
    if not folder.exists():
        make_own(folder)
    with output_folder(folder, "--work"):
        if not file.exists():  # else another process has run it in the meantime
            _train(run, data_dir, folder, file, work)
    return file


def _train(run: TableRun, data_dir: Path, folder: Path, file: Path, work: Path) -> None:
    checkpoint = newest_valid_checkpoint(folder)
    resume = str(checkpoint) if checkpoint else None
    options = {"output_dir": str(folder), "disable_tqdm": True, "resume_from_checkpoint": resume}
    settings, pretraining = start_from_pretrained(run.settings, data_dir, work)
    settings = start_from_embeddings(settings, data_dir, work)
    recipe = RUN_RECIPES[run.recipe]
    settings = start_from_teacher(settings, recipe.arguments, data_dir, work)
    reset_peak_memory()
    measured = recipe.train({**settings, **options}, run.fold, data_dir)
    if resume:
        del measured["training_seconds"]  # covers only the part after resuming
    content = {
        "settings": run.settings,
        **measured,
        **pretraining,
        "threads": torch.get_num_threads(),
        "peak_memory_mib": peak_memory(),
    }
    with writable(f"--results {file}"):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, content)
    remove_own(folder)


def run_table(
    table: RunTable,
    *,
    data_dir: Path,
    results: Path,
    work: Path,
    jobs: int = 1,
    overrides: Mapping[str, Any] | None = None,
) -> None:
    """Perform every pending run of a table, `jobs` at a time, with a progress bar.

    Each job sees one of the GPUs, if there are any.
    """
    runs = []
    for run in pending_runs(table, results, overrides or {}):
        missing = [*missing_files(run.settings, data_dir), *missing_texts(run.settings, data_dir)]
        if missing:
            print(f"{table.name}: {run.variant}, {run.name}: not run, as it needs {', '.join(missing)}")
        else:
            runs.append(run)
    with tqdm(total=len(runs), desc=table.name, unit="run", smoothing=0.1) as progress:
        # Restarting processes bounds the memory that the allocator keeps from batches of many lengths. The pool's own
        # `max_tasks_per_child` hangs once all processes have reached it (CPython issue 115634).
        for start in range(0, len(runs), jobs * RUNS_A_PROCESS):
            with worker_pool(jobs, visible_devices()) as pool:
                part = runs[start : start + jobs * RUNS_A_PROCESS]
                futures = {pool.submit(execute, run, data_dir, results, work): run for run in part}
                for future in as_completed(futures):
                    future.result()
                    progress.set_postfix_str(f"{futures[future].variant} {futures[future].name}")
                    progress.update()
