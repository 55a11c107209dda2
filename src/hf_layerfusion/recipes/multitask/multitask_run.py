"""The multitask script: prepares all tasks, then trains, predicts and writes outputs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hf_layerfusion.data.text_preparation import CleaningSteps, tokenizer_of_tasks
from hf_layerfusion.errors import UserError
from hf_layerfusion.hub.publish import CARD
from hf_layerfusion.recipes.data_record import DATA, check_record
from hf_layerfusion.recipes.fold_runs import check_fold_options, run_folds
from hf_layerfusion.recipes.multitask.multitask_arguments import (
    MultitaskDataArguments,
    MultitaskModelArguments,
    MultitaskTrainingArguments,
)
from hf_layerfusion.recipes.multitask.multitask_report import write_multitask_outputs
from hf_layerfusion.recipes.multitask.task_preparation import check_task_options, read_tasks_file
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
from hf_layerfusion.training.model_preparation import group_rows
from hf_layerfusion.training.trainer import LayerFusionTrainer


def train_tasks(
    model_arguments: MultitaskModelArguments,
    data_arguments: MultitaskDataArguments,
    training_arguments: MultitaskTrainingArguments,
    entries: dict[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Run the script for several tasks: prepare their data once, then train, predict and write outputs for each seed.

    With `--hp_search` the best settings are searched first. With `--dry_run` nothing is trained. With `--folds` the
    run is a cross-validation (SerBERTus, section 6).

    Args:
        model_arguments, data_arguments, training_arguments: the script's arguments.
        entries: tasks to use instead of those in `--tasks_file`.

    Returns:
        The result of `run_seeds`, or with `--folds` of `run_folds`; with `--dry_run` the number of parameters of each
        architecture, in total and by part, and this run's parameter groups.

    Raises:
        UserError: An argument or the data are invalid.
    """
    if is_prediction_only(training_arguments):
        raise UserError(
            "--do_predict without --do_train is for one task; name predict_file in the tasks file, or use "
            "`hf-layerfusion predict` with a trained model."
        )
    check_search(training_arguments)
    if training_arguments.distillation_weight is not None:
        raise UserError("--distillation_weight is for the scripts that train one task; leave it out.")
    if training_arguments.plot_layers or training_arguments.plot_layers_beside:
        raise UserError(
            "--plot_layers and --plot_layers_beside are for the scripts that train one task; leave them out."
        )
    is_cross_validation = data_arguments.folds is not None
    if is_cross_validation:
        check_fold_options(training_arguments)
    if entries is None:
        entries = read_tasks_file(data_arguments.tasks_file)
    check_task_options(entries, training_arguments)
    settings = run_settings(model_arguments, data_arguments, training_arguments) | {"tasks": entries}
    folder = Path(data_arguments.data_dir or Path(str(data_arguments.tasks_file)).parent)
    with open_run(training_arguments, settings):
        if training_arguments.process_index == 0 and not training_arguments.dry_run:
            several = is_cross_validation or len(training_arguments.seeds or ()) > 1
            open_hub(training_arguments, several=several)
        with training_arguments.main_process_first(desc="preparing the texts"):
            data, *further = prepare_multitask(entries, folder, model_arguments, data_arguments)
        if training_arguments.dry_run:
            groups = group_rows(load_multitask_model(model_arguments, data.tasks), training_arguments)
            counts = architecture_counts(model_arguments, data.tasks)
            return {"architectures": counts, "groups": groups, **planned_push(training_arguments)}
        record, files = tasks_record(data)
        check_record(
            Path(str(training_arguments.output_dir)), record, files, named_checkpoint(training_arguments)
        )
        settings |= {DATA: record}
        experiments = [
            MultitaskExperiment(part, model_arguments, data_arguments, settings) for part in (data, *further)
        ]
        if is_cross_validation:
            return run_folds(experiments, training_arguments)
        return run_seeds(*run_with_best(experiments[0], training_arguments))


@dataclass
class MultitaskExperiment:
    """`Experiment` for a run over several tasks.

    Attributes:
        data: data of all tasks.
        model_arguments: the model's arguments.
        data_arguments: data arguments that all tasks share.
        settings: what results depend on.
        sections: further sections of the model card, `(title, Markdown)`.
    """

    outputs = (CARD,)

    data: MultitaskData
    model_arguments: MultitaskModelArguments
    data_arguments: MultitaskDataArguments
    settings: dict[str, Any]
    sections: list[tuple[str, str]] = field(default_factory=list)

    @property
    def has_held_out(self) -> bool:
        """True if every task has validation data to select on and test data to report on."""
        return all({"validation", "test"} <= splits.keys() for splits in self.data.encoded.values())

    def load_model(self, model_arguments: MultitaskModelArguments) -> PreTrainedModel:
        """Return the model for other model arguments; see `load_multitask_model`."""
        return load_multitask_model(model_arguments, self.data.tasks)

    def make_trainer(self, arguments: MultitaskTrainingArguments) -> LayerFusionTrainer:
        """Return the run's Trainer, which saves a tokenizer that prepares raw texts; see `make_multitask_trainer`."""
        trainer = make_multitask_trainer(self.data, self.model_arguments, self.data_arguments, arguments)
        cleaned = {
            name: CleaningSteps(
                self.data.prepared[name].steps, task.data.spelling_language, task.data.spelling_dictionary
            )
            for name, task in self.data.tasks.items()
        }
        limit, cut = self.data_arguments.max_seq_length, self.data_arguments.cut
        trainer.processing_class = tokenizer_of_tasks(self.data.tokenizer, cleaned, limit, cut)
        return trainer

    def train(self, trainer: LayerFusionTrainer) -> MultitaskResult:
        """Train and predict; see `train_multitask`."""
        return train_multitask(trainer, self.data)

    def write(self, trainer: LayerFusionTrainer, result: MultitaskResult, folder: Path) -> None:
        """Write the outputs; see `write_multitask_outputs`."""
        write_multitask_outputs(
            self.data, result, trainer, self.model_arguments, self.data_arguments, folder, self.sections
        )
