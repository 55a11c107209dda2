"""The whole of the script for several tasks."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hf_layerfusion.errors import UserError
from hf_layerfusion.hub.publish import CARD
from hf_layerfusion.recipes.data_record import DATA, check_record
from hf_layerfusion.recipes.multitask.multitask_arguments import (
    MultitaskDataArguments,
    MultitaskModelArguments,
    MultitaskTrainingArguments,
)
from hf_layerfusion.recipes.multitask.multitask_report import write_multitask_outputs
from hf_layerfusion.recipes.multitask.task_preparation import read_tasks_file
from hf_layerfusion.recipes.multitask.task_training import (
    MultitaskData,
    MultitaskResult,
    architecture_counts,
    load_multitask_model,
    make_multitask_trainer,
    prepare_multitask,
    tasks_record,
    train_multitask,
)
from hf_layerfusion.recipes.prediction_run import is_prediction_only
from hf_layerfusion.recipes.publishing import open_hub, planned_push
from hf_layerfusion.recipes.run_folder import (
    named_checkpoint,
    open_run,
    run_seeds,
    run_settings,
)
from hf_layerfusion.recipes.search.search_run import check_search, run_with_best
from hf_layerfusion.training.parameter_groups import group_rows
from hf_layerfusion.training.trainer import LayerFusionTrainer


def train_tasks(
    model_arguments: MultitaskModelArguments,
    data_arguments: MultitaskDataArguments,
    training_arguments: MultitaskTrainingArguments,
    entries: dict[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Prepares the data of all tasks once, then trains, predicts and writes outputs for each seed; with `--hp_search`,
    by the settings that a search before finds best. With `--dry_run` nothing is trained: the answer is the number of
    parameters of each architecture, in all and by part, and this run's parameter groups.

    Args:
        model_arguments, data_arguments, training_arguments: the script's.
        entries: the tasks, in place of those of `--tasks_file`.

    Returns:
        As `run_seeds`, or with `--dry_run` what was counted.

    Raises:
        UserError: for whatever the user can mend.
    """
    if is_prediction_only(training_arguments):
        raise UserError(
            "--do_predict without --do_train is for one task; name predict_file in the tasks file, or ask a trained "
            "model by MultitaskPipeline."
        )
    check_search(training_arguments)
    if entries is None:
        entries = read_tasks_file(data_arguments.tasks_file)
    settings = run_settings(model_arguments, data_arguments, training_arguments) | {"tasks": entries}
    folder = Path(data_arguments.data_dir or Path(str(data_arguments.tasks_file)).parent)
    with open_run(training_arguments, settings):
        if training_arguments.process_index == 0 and not training_arguments.dry_run:
            open_hub(training_arguments, several=len(training_arguments.seeds or ()) > 1)
        with training_arguments.main_process_first(desc="preparing the texts"):
            data = prepare_multitask(entries, folder, model_arguments, data_arguments)
        if training_arguments.dry_run:
            groups = group_rows(load_multitask_model(model_arguments, data.tasks), training_arguments)
            counts = architecture_counts(model_arguments, data.tasks)
            return {"architectures": counts, "groups": groups, **planned_push(training_arguments)}
        record, files = tasks_record(data)
        check_record(
            Path(str(training_arguments.output_dir)), record, files, named_checkpoint(training_arguments)
        )
        settings |= {DATA: record}
        experiment = MultitaskExperiment(data, model_arguments, data_arguments, settings)
        return run_seeds(*run_with_best(experiment, training_arguments))


@dataclass
class MultitaskExperiment:
    """A run over several tasks, whatever its seed and folder: an `Experiment`.

    Attributes:
        data: of all tasks.
        model_arguments: which model.
        data_arguments: what holds for all tasks.
        settings: what its results depend on.
        sections: what the model card says beside its own, `(title, Markdown)`.
    """

    outputs = (CARD,)

    data: MultitaskData
    model_arguments: MultitaskModelArguments
    data_arguments: MultitaskDataArguments
    settings: dict[str, Any]
    sections: list[tuple[str, str]] = field(default_factory=list)

    @property
    def has_held_out(self) -> bool:
        """Whether every task has validation data to choose on and test data to report on."""
        return all({"validation", "test"} <= splits.keys() for splits in self.data.encoded.values())

    def load_model(self, model_arguments: MultitaskModelArguments) -> PreTrainedModel:
        """As `load_multitask_model`."""
        return load_multitask_model(model_arguments, self.data.tasks)

    def make_trainer(self, arguments: MultitaskTrainingArguments) -> LayerFusionTrainer:
        """As `make_multitask_trainer`."""
        return make_multitask_trainer(self.data, self.model_arguments, self.data_arguments, arguments)

    def train(self, trainer: LayerFusionTrainer) -> MultitaskResult:
        """As `train_multitask`."""
        return train_multitask(trainer, self.data)

    def write(self, trainer: LayerFusionTrainer, result: MultitaskResult, folder: Path) -> None:
        """As `write_multitask_outputs`."""
        write_multitask_outputs(
            self.data, result, trainer, self.model_arguments, self.data_arguments, folder, self.sections
        )
