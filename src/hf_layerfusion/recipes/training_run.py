"""The fine-tuning recipe: from prepared data to a folder with model, card, plots and predictions."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from hf_layerfusion.data.diagnosis import diagnose
from hf_layerfusion.data.statistics import word_counts
from hf_layerfusion.data.text_preparation import copy_dictionary, prepared_tokenizer
from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.metrics import compute_metrics_for
from hf_layerfusion.evaluation.plots.corpus_plots import plot_word_counts, same_counts
from hf_layerfusion.evaluation.plots.layer_plots import plot_layer_use
from hf_layerfusion.evaluation.plots.run_plots import has_training_curves, plot_training_curves
from hf_layerfusion.hub.card import build_card
from hf_layerfusion.hub.publish import CARD
from hf_layerfusion.metric_registry import inline_name, selection_metrics
from hf_layerfusion.recipes.adam import chosen_optimizer
from hf_layerfusion.recipes.adapter_setup import num_parameters
from hf_layerfusion.recipes.best_metric import WITHOUT_EVALUATION, check_metric, with_metric
from hf_layerfusion.recipes.data_preparation import (
    PreparedData,
    check_length,
    check_names,
    prepare,
    tokenize,
)
from hf_layerfusion.recipes.data_record import DATA, check_record, data_record
from hf_layerfusion.recipes.ensemble_artifacts import write_seen_texts
from hf_layerfusion.recipes.layer_state_plots import (
    PLOT_FILE,
    LayerStateCallback,
    check_layer_states,
    check_plotted_epochs,
    plot_states,
)
from hf_layerfusion.recipes.layer_use_report import LAYERS_TITLE, layers_section, measure_layers
from hf_layerfusion.recipes.model_setup import (
    check_model,
    encodes_pairs_separately,
    load_model,
    load_tokenizer,
    settings_of_new_model,
)
from hf_layerfusion.recipes.prediction_run import is_prediction_only, predict_only
from hf_layerfusion.recipes.publishing import open_hub, planned_push
from hf_layerfusion.recipes.recipe_arguments import (
    DataArguments,
    ModelArguments,
    RunTrainingArguments,
    TextDataArguments,
)
from hf_layerfusion.recipes.run_folder import (
    named_checkpoint,
    open_run,
    run_seeds,
    run_settings,
    save_trained,
    timed_training,
    write_results,
)
from hf_layerfusion.recipes.run_report import (
    RunResult,
    card_facts,
    curves_caption,
    few_texts,
    split_metrics,
    training_texts,
    words_caption,
)
from hf_layerfusion.recipes.search.search_run import check_search, run_with_best, varies_model
from hf_layerfusion.recipes.split_predictions import check_split_predictions, write_split_predictions
from hf_layerfusion.recipes.teaching import (
    check_teacher,
    open_teacher,
    refuse_teacher,
    teacher_record,
    teacher_section,
    with_predictions,
    with_teachers_texts,
    with_unlabelled,
    with_weight,
)
from hf_layerfusion.recipes.token_limit import with_token_limit
from hf_layerfusion.run_layout import LAYER_USE_FILE, PLOTS, figure, records
from hf_layerfusion.storage import write_json
from hf_layerfusion.training.collators import PaddingCollator
from hf_layerfusion.training.model_preparation import group_rows
from hf_layerfusion.training.probe_start import check_probe_start
from hf_layerfusion.training.trainer import LayerFusionTrainer

logger = logging.getLogger(__name__)


def make_trainer(
    data: PreparedData,
    encoded: dict[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    model_arguments: ModelArguments,
    training_arguments: RunTrainingArguments,
) -> LayerFusionTrainer:
    """Return a Trainer with a model whose new weights are initialized from the run's seed, without writing anything.

    Raises:
        UserError: As `load_model` and `check_windows`.
    """
    set_seed(training_arguments.seed)
    model = load_model(model_arguments, data.schema)
    check_windows(model, model_arguments, data, training_arguments)
    return LayerFusionTrainer(
        model=model,
        args=training_arguments,
        train_dataset=encoded["train"],
        eval_dataset=encoded.get("validation"),
        processing_class=tokenizer,
        data_collator=PaddingCollator(tokenizer),
        compute_metrics=compute_metrics_for(data.schema.problem_type),
        optimizer_cls_and_kwargs=chosen_optimizer(training_arguments),
    )


def check_windows(
    model: PreTrainedModel,
    model_arguments: ModelArguments,
    data: PreparedData,
    training_arguments: RunTrainingArguments,
) -> None:
    """Check the options that depend on windows, which a trained checkpoint may read without being asked to.

    Raises:
        UserError: Windows of pairs of texts, or plots of their layers; or settings of windows without windows.
    """
    config = model.config
    if getattr(config, "window_size", None) is None:
        for option in ("window_overlap", "window_pooling"):
            value = getattr(model_arguments, option)
            if value is not None:
                raise UserError(
                    f"--{option} needs windows, found --{option} {value} without --window_size; add --window_size, or "
                    f"leave --{option} out."
                )
        return
    found = f"found {model_arguments.model_name_or_path} with window_size={config.window_size}"
    if len(data.text_columns) > 1:
        raise UserError(
            f"--text_pair_column needs a model that reads its texts whole, {found}; name a checkpoint without windows."
        )
    if training_arguments.plot_layers:
        raise UserError(f"--plot_layers draws texts that are read whole, {found}; leave out --plot_layers.")


def train_and_predict(trainer: LayerFusionTrainer, encoded: dict[str, Dataset]) -> RunResult:
    """Train, then predict the validation and test splits."""
    arguments: RunTrainingArguments = trainer.args
    scored = [split for split in ("validation", "test") if split in encoded]
    if arguments.eval_strategy == "no":
        scored = scored[-1:]  # validation data are predicted only if there are no test data
    trainer.frozen_states.further = [encoded[split] for split in scored]
    seconds = timed_training(trainer)
    metrics: dict[str, dict[str, float]] = {}
    logits, labels = np.empty((0, trainer.model.num_labels)), None
    for split in scored:
        output = trainer.predict(encoded[split], metric_key_prefix=split)
        logits = output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
        labels = output.label_ids
        if labels is not None:
            metrics[split] = split_metrics(output, split)
    parameters = num_parameters(trainer.model)
    return RunResult(metrics, logits, labels, trainer.state.log_history, seconds, parameters)


def write_outputs(
    data: PreparedData,
    result: RunResult,
    trainer: LayerFusionTrainer,
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    folder: Path,
    further_sections: Sequence[tuple[str, str]] = (),
) -> None:
    """Write model, tokenizer, results, predictions, plots and card into a folder.

    The card names the Trainer's folder, and shows `further_sections` besides its own.
    """
    training_arguments: RunTrainingArguments = trainer.args
    place = Path(str(training_arguments.output_dir))
    write_seen_texts(folder, [data])
    save_trained(trainer, folder)
    copy_dictionary(trainer.processing_class, data_arguments.spelling_dictionary, folder)
    kept = records(folder)
    plots = kept / PLOTS
    plots.mkdir(exist_ok=True)
    figures = []
    split = "test" if "test" in data.splits else "validation"
    if split in data.splits:
        figures += write_split_predictions(kept, data, split, result.logits, result.labels, data_arguments)
    if "validation" in data.splits and has_training_curves(result.history):
        main = selection_metrics(data.schema.problem_type)[0]
        plot_training_curves(result.history, plots / "training_curves.png", main)
        caption = curves_caption(result.history, inline_name(main), len(data.splits["validation"]))
        figures.append((caption, figure("training_curves.png")))
    if training_arguments.plot_layers:
        plot_states(place, training_arguments.plot_layers_beside, data.schema.names, plots / PLOT_FILE)
        figures.append(
            (
                "The first token's states at the last six layers, on two principal components.",
                figure(PLOT_FILE),
            )
        )
    sections = []
    if trainer.eval_dataset is not None:
        use = measure_layers(trainer, trainer.eval_dataset)
        sections.append((LAYERS_TITLE, layers_section(use)))
        if use is not None:
            write_json(kept / LAYER_USE_FILE, dataclasses.asdict(use))
            plot_layer_use(use, plots / "layer_use.png")
            what = "Rise in loss" if use.accuracy_drop is None else "Drop in accuracy"
            caption = (
                f"{what} when a layer's states are replaced by their mean, with 95 % intervals, on "
                f"{few_texts(use.num_texts, 'validation')}."
            )
            figures.append((caption, figure("layer_use.png")))
    if data.schema.problem_type == "single_label_classification":
        before, after = (word_counts(*part) for part in training_texts(data))
        plot_word_counts(plots / "word_counts.png", before, after)
        caption = words_caption(data, cleaned=not same_counts(before, after))
        figures.append((f"{caption}, by class.", figure("word_counts.png")))
    write_results(folder, trainer, result.metrics, result.training_seconds, result.parameters)
    facts = card_facts(
        place, data, result, trainer.model, model_arguments, data_arguments, training_arguments, figures
    )
    facts.sections += [*further_sections, *sections]
    build_card(facts).save(folder / CARD)


@dataclass
class Classification:
    """`Experiment` for a run on one task.

    Attributes:
        data: the splits as texts.
        encoded: the splits as model inputs.
        tokenizer: the tokenizer they were encoded with.
        model_arguments: the model's arguments.
        data_arguments: the data's arguments.
        settings: what results depend on.
        sections: further sections of the model card, `(title, Markdown)`.
    """

    outputs = (CARD,)

    data: PreparedData
    encoded: dict[str, Dataset]
    tokenizer: PreTrainedTokenizerBase
    model_arguments: ModelArguments
    data_arguments: DataArguments
    settings: dict[str, Any]
    sections: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        data = self.data
        check_split_predictions(  # before the run trains
            data.splits.get("test"),
            data.schema.problem_type,
            data.schema.names,
            data.text_columns,
            self.data_arguments,
        )

    @property
    def has_held_out(self) -> bool:
        """True if there are validation data to select on and test data to report on."""
        return {"validation", "test"} <= self.encoded.keys()

    def load_model(self, model_arguments: ModelArguments) -> PreTrainedModel:
        """Return the model for other model arguments; see the function `load_model`."""
        return load_model(model_arguments, self.data.schema)

    def make_trainer(self, arguments: RunTrainingArguments) -> LayerFusionTrainer:
        """Return the run's Trainer; see the function `make_trainer`.

        Raises:
            UserError: The layers' states cannot be plotted; or as `load_model`.
        """
        if self.data_arguments.train_on_all:
            # No data are left to select a checkpoint on.
            arguments = dataclasses.replace(arguments, **WITHOUT_EVALUATION)
        validation = self.encoded.get("validation")
        check_layer_states(arguments, self.data.schema.problem_type, validation)
        trainer = make_trainer(self.data, self.encoded, self.tokenizer, self.model_arguments, arguments)
        data = self.data_arguments
        # What is saved prepares raw texts; the texts of the run are clean already.
        trainer.processing_class = prepared_tokenizer(
            self.tokenizer,
            self.data.steps,
            data.max_seq_length,
            data.truncation,
            data.spelling_language,
            data.spelling_dictionary,
        )
        if arguments.plot_layers:
            title = getattr(trainer.model.config, "paper_name", "plain")
            trainer.add_callback(
                LayerStateCallback(
                    trainer, self.encoded["validation"], title, Path(str(arguments.output_dir))
                )
            )
        return trainer

    def train(self, trainer: LayerFusionTrainer) -> RunResult:
        """Train and predict; see `train_and_predict`."""
        return train_and_predict(trainer, self.encoded)

    def write(self, trainer: LayerFusionTrainer, result: RunResult, folder: Path) -> None:
        """Write the outputs; see `write_outputs`."""
        write_outputs(
            self.data, result, trainer, self.model_arguments, self.data_arguments, folder, self.sections
        )


@contextmanager
def begin_run(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    training_arguments: RunTrainingArguments,
    *,
    several: bool,
) -> Iterator[tuple[PreTrainedTokenizerBase, dict[str, Any]]]:
    """Check everything that can be checked before data are read, and lock the run's folder while the block runs.

    Args:
        model_arguments, data_arguments, training_arguments: arguments of a script that trains one task.
        several: whether there are several runs, of seeds or folds.

    Yields:
        The tokenizer, and the run's settings as `run_settings` returns them.

    Raises:
        UserError: Names the option to correct; or as `open_run` and `open_hub`.
    """
    check_names(data_arguments)
    check_metric(training_arguments, *filter(None, [data_arguments.problem_type]))
    check_plotted_epochs(training_arguments)
    if model_arguments.window_size is not None and data_arguments.text_pair_column is not None:
        raise UserError(
            f"--window_size must be left out for pairs of texts, found --text_pair_column "
            f"{data_arguments.text_pair_column}: a window would hold parts of both; raise --max_seq_length instead."
        )
    if model_arguments.window_size is not None and training_arguments.plot_layers:
        raise UserError(
            "--plot_layers draws texts that are read whole, found --window_size; leave out one of them."
        )
    settings = run_settings(model_arguments, data_arguments, training_arguments)
    settings |= settings_of_new_model(model_arguments)
    with open_run(training_arguments, settings):
        if training_arguments.process_index == 0 and not training_arguments.dry_run:
            open_hub(training_arguments, several)
        if not varies_model(training_arguments):
            check_model(model_arguments)
        chosen_optimizer(training_arguments)
        tokenizer = load_tokenizer(model_arguments)
        check_length(tokenizer, data_arguments, trains=True)
        yield tokenizer, settings


def warn_of_findings(data_arguments: DataArguments, data: PreparedData) -> None:
    """Warn of what may be wrong with the data, in the neutral recipe."""
    if isinstance(data_arguments, TextDataArguments):
        for finding in diagnose(data.splits, data.text_columns):
            logger.warning("%s: %s", finding.split, finding.line)


def classify(
    model_arguments: ModelArguments, data_arguments: DataArguments, training_arguments: RunTrainingArguments
) -> dict[str, Any]:
    """Run a script without folds: prepare the data once, then train, predict and write outputs for each seed.

    With `--hp_search` the best settings are searched first. With `--do_predict` and no `--do_train`, see
    `predict_only`.

    Returns:
        The result of `run_seeds`; with `--dry_run`, which trains nothing, the `groups` of parameters.

    Raises:
        UserError: An argument or the data are invalid.
    """
    if is_prediction_only(training_arguments):
        refuse_teacher(data_arguments, training_arguments, "is for training, found --do_predict alone")
        return predict_only(model_arguments, data_arguments, training_arguments)
    check_search(training_arguments)
    training_arguments = with_weight(data_arguments, training_arguments)
    if training_arguments.hp_search is not None:
        # Data that settings are selected on are not reported.
        data_arguments = dataclasses.replace(data_arguments, report_on_selection=False)
    several = len(training_arguments.seeds or ()) > 1
    with begin_run(model_arguments, data_arguments, training_arguments, several=several) as (
        tokenizer,
        settings,
    ):
        teacher = open_teacher(data_arguments, training_arguments)
        with training_arguments.main_process_first(desc="preparing the texts"):
            data = with_unlabelled(prepare(data_arguments), data_arguments)
            if teacher is not None:
                temperature = training_arguments.distillation_temperature
                check_teacher(teacher, data.schema, len(data.text_columns), temperature)
                data = with_teachers_texts(teacher, data)
            separate = encodes_pairs_separately(model_arguments)
            data_arguments = with_token_limit(data, tokenizer, data_arguments, separate_pairs=separate)
            encoded = tokenize(data, tokenizer, data_arguments, separate_pairs=separate)
        for note in data.notes:
            logger.info(note)
        warn_of_findings(data_arguments, data)
        training_arguments = with_metric(training_arguments, data.schema.problem_type)
        if training_arguments.dry_run:
            model = load_model(model_arguments, data.schema)
            if training_arguments.init_from_probe:
                check_probe_start(model)
            groups = group_rows(model, training_arguments)
            return {"groups": groups, **planned_push(training_arguments)}
        record, sections = data_record(data), []
        if teacher is not None:
            record |= teacher_record(teacher)
        check_record(
            Path(str(training_arguments.output_dir)),
            record,
            vars(data_arguments) | {"teacher": " ".join(data_arguments.teacher or ())},
            named_checkpoint(training_arguments),
        )
        if teacher is not None:
            with training_arguments.main_process_first(desc="predictions of the teacher"):
                encoded = with_predictions(teacher, data, encoded)
            sections.append(teacher_section(data_arguments, training_arguments, data, teacher))
        settings |= {DATA: record, "max_seq_length": data_arguments.max_seq_length}
        experiment = Classification(
            data, encoded, tokenizer, model_arguments, data_arguments, settings, sections
        )
        return run_seeds(*run_with_best(experiment, training_arguments))
