"""Plots of hidden states by layer after chosen epochs, for one run or two side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_layerfusion.errors import NPZ_ERRORS, UserError, one_line
from hf_layerfusion.evaluation.layer_use import cls_states
from hf_layerfusion.evaluation.plots.layer_plots import plot_layer_pca
from hf_layerfusion.recipes.layer_use_report import NUM_TEXTS
from hf_layerfusion.recipes.recipe_arguments import RunTrainingArguments
from hf_layerfusion.run_layout import LAYER_STATES, records
from hf_layerfusion.storage import replacing, writable
from hf_layerfusion.training.trainer import LayerFusionTrainer

NUM_LAYERS = 6
PLOT_FILE = "layer_states.png"


def check_plotted_epochs(arguments: RunTrainingArguments) -> None:
    """Check the epochs of `--plot_layers`, and that the other run has states, before data are read."""
    epochs = arguments.plot_layers or []
    if not epochs and arguments.plot_layers_beside:
        raise UserError("--plot_layers_beside needs --plot_layers, found none; name the epochs to draw.")
    if not all(1 <= epoch <= arguments.num_train_epochs for epoch in epochs):
        raise UserError(
            f"--plot_layers must name epochs from 1 to --num_train_epochs {arguments.num_train_epochs:g}, found "
            f"{epochs}; choose from these."
        )
    beside = arguments.plot_layers_beside
    if beside and not read_states(Path(beside)):
        raise UserError(
            f"--plot_layers_beside {beside}: must hold a run with --plot_layers, found no {LAYER_STATES}."
        )


def check_layer_states(arguments: RunTrainingArguments, problem_type: str, examples: Dataset | None) -> None:
    """Check before training that `--plot_layers` can be drawn."""
    check_plotted_epochs(arguments)
    if not arguments.plot_layers:
        return
    if problem_type != "single_label_classification" or examples is None:
        found = problem_type if examples is not None else "none"
        raise UserError(
            f"--plot_layers needs validation texts with one class each, found {found}; leave it out."
        )
    if not arguments.plot_layers_beside:
        return
    folder = Path(arguments.plot_layers_beside)
    labels = _first_texts(examples)["labels"][:]
    if any(list(stored["labels"]) != labels for stored in read_states(folder).values()):
        raise UserError(
            f"--plot_layers_beside {folder}: was drawn from other texts than this run validates on; run both on the "
            "same data with the same --split_seed."
        )


class LayerStateCallback(TrainerCallback):
    """Callback that saves the states of the first validation texts at the last six layers after chosen epochs, for
    `plot_states`."""

    def __init__(self, trainer: LayerFusionTrainer, examples: Dataset, title: str, folder: Path):
        self.epochs = set(trainer.args.plot_layers)
        self.title = title
        self.folder = records(folder) / LAYER_STATES
        part = _first_texts(examples)
        # Starting a data loader draws from torch's generator, which must not affect training.
        with torch.random.fork_rng(devices=[]):
            self.batches = list(
                DataLoader(part, batch_size=trainer.args.eval_batch_size, collate_fn=trainer.data_collator)
            )
        self.labels = part["labels"][:]

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save the states if this epoch was chosen."""
        epoch = round(state.epoch or 0)
        if epoch not in self.epochs or not state.is_world_process_zero:
            return
        model = kwargs["model"]
        depth = model.config.num_hidden_layers
        layers = range(max(1, depth + 1 - NUM_LAYERS), depth + 1)
        states = cls_states(model, self.batches, layers)
        with writable(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self.folder / f"epoch-{epoch}.npz") as partial, partial.open("wb") as file:
                np.savez_compressed(
                    file,
                    title=f"{self.title}, epoch {epoch}",
                    states=states,
                    labels=self.labels,
                    layers=list(layers),
                )


def _first_texts(examples: Dataset) -> Dataset:
    return examples.select(range(min(NUM_TEXTS, len(examples))))


def read_states(folder: Path) -> dict[str, Any]:
    """Return the states that `LayerStateCallback` saved in a run's folder by title, the earliest epoch first."""
    # Epochs before the resumption of a run of an earlier version lie at the top of its folder.
    files = {
        int(file.stem.removeprefix("epoch-")): file
        for place in (folder, records(folder))
        for file in (place / LAYER_STATES).glob("epoch-*.npz")
    }
    stored = [_read(files[epoch]) for epoch in sorted(files)]
    return {str(content["title"]): content for content in stored}


def _read(file: Path) -> dict[str, Any]:
    try:
        # Reads every array, which compares the archive's own checksums.
        with np.load(file, allow_pickle=False) as content:
            return {name: content[name] for name in ("title", "states", "labels", "layers")}
    except NPZ_ERRORS as error:
        raise UserError(
            f"{file}: must hold the states of --plot_layers, found a damaged file ({one_line(error)}); start the run "
            "again."
        ) from error


def plot_states(folder: Path, beside: str | None, names: Sequence[str], path: Path) -> None:
    """Plot the states of a run and, below them, those of the run in the folder `beside`."""
    stored = read_states(folder)
    if beside:
        other = Path(beside)
        stored |= {f"{other.name}: {title}": content for title, content in read_states(other).items()}
    first = next(iter(stored.values()))
    states = {title: content["states"] for title, content in stored.items()}
    plot_layer_pca(states, first["labels"], names, path, first["layers"].tolist())
