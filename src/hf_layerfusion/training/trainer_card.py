"""The model card that a Trainer writes: what it trained, how, and the results of its evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedConfig, PreTrainedModel, Trainer

from hf_layerfusion.evaluation.plots.run_plots import plot_training_curves
from hf_layerfusion.hub.card import build_card
from hf_layerfusion.hub.card_facts import CardFacts
from hf_layerfusion.hub.citations import METHODS
from hf_layerfusion.hub.encoder import encoder_hub_id, encoder_license, encoder_name, is_hub_id
from hf_layerfusion.hub.environment import hardware_name, library_environment
from hf_layerfusion.hub.publish import CARD
from hf_layerfusion.metric_registry import PROBLEM_METRICS, inline_name, selection_metrics
from hf_layerfusion.run_layout import PLOTS, figure, records

GENERATED = "generated_from_trainer"
"""The Hub's tag of such cards; one without it is somebody's own."""

_SETTINGS = (
    "learning_rate", "fusion_learning_rate", "layer_decay", "epoch_decay", "num_train_epochs",
    "weight_decay", "lr_scheduler_type", "warmup_steps", "optim", "regularizers", "gradient_surgery",
    "task_mixing", "class_balance", "balance_bins", "freeze_encoder", "init_from_probe",
    "head_first_epochs", "ema_decay", "average_last", "weight_interpolation", "bf16", "fp16",
)  # fmt: skip
NO_METRIC = ("_runtime", "_per_second", "_preparation_time")
"""Endings of the names of times, which the Trainer puts among the metrics of an evaluation."""


def trainer_card(
    trainer: Trainer,
    figures: Sequence[tuple[str, str]],
    language: str | Sequence[str] | None = None,
    license: str | None = None,  # noqa: A002  (the stock method's name)
    tags: str | Sequence[str] | None = None,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    tasks: str | Sequence[str] | None = None,
    dataset_tags: str | Sequence[str] | None = None,
    dataset: str | Sequence[str] | None = None,
    dataset_args: str | Sequence[str] | None = None,
) -> ModelCard:
    """Return the card of a Trainer's model in its present state.

    Args:
        trainer: its figures are those of its evaluations: of the best checkpoint where that was loaded, else the last.
        figures: captions with paths relative to the card.
        language, license, tags, model_name, finetuned_from, tasks, dataset_tags, dataset, dataset_args: as for
            `Trainer.create_model_card`; what is left out is not in the card.
    """
    args, state, model = trainer.args, trainer.state, trainer.accelerator.unwrap_model(trainer.model)
    folder = Path(str(args.output_dir))
    source = finetuned_from or encoder_source(model)
    data_ids = _listed(dataset_tags)
    settings = {name: getattr(args, name, None) for name in _SETTINGS}
    settings["batch"] = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    named = getattr(model.config, "tasks", None)
    card = build_card(
        CardFacts(
            model_name=model_name or (trainer.hub_model_id or folder.absolute().name).rpartition("/")[2],
            model_path=trainer.hub_model_id or str(folder),
            encoder=encoder_name(source) if source else model.config.get_text_config().model_type,
            base_model=encoder_hub_id(source) if source else None,
            base_model_license=license or (encoder_license(source) if source else None),
            task=next(iter(_listed(tasks)), "text-classification"),
            architecture=[f"{type(model).__name__}, {getattr(model.config, 'paper_name', 'plain')}"],
            methods=METHODS.get(model.config.model_type, []),
            parameters=model.num_parameters(),
            needs_package=model.config.model_type in METHODS,
            language=_listed(language),
            dataset_name=", ".join([*_listed(dataset), *_listed(dataset_args)]),
            dataset_id=data_ids[0] if data_ids and is_hub_id(data_ids[0]) else None,
            problem_type="" if named else model.config.problem_type or "",
            labels=[] if named or model.config.num_labels == 1 else own_labels(model.config),
            tasks={name: 2 if task.pair else 1 for name, task in model.config.task_configs.items()}
            if named
            else {},
            metrics={"validation": metrics} if (metrics := evaluated(trainer)) else {},
            recipe={name: value for name, value in settings.items() if value not in (None, False)},
            seeds=[args.seed],
            training_seconds=next(
                (entry["train_runtime"] for entry in reversed(state.log_history) if "train_runtime" in entry),
                None,
            ),
            hardware=hardware_name(args.device, args.world_size),
            environment=library_environment(),
            figures=list(figures),
        )
    )
    data = cast(ModelCardData, card.data)
    data.tags = list(dict.fromkeys([*(data.tags or ()), GENERATED, *_listed(tags)]))
    return card


def write_card(trainer: Trainer, *args: Any, **kwargs: Any) -> None:
    """Write the card of a Trainer into its `output_dir`, with a plot of its training.

    A card that is there and not a Trainer's own is left as it is.

    Args:
        trainer: The Trainer.
        *args: As for `Trainer.create_model_card`.
        **kwargs: As for `Trainer.create_model_card`.
    """
    folder, history = Path(str(trainer.args.output_dir)), trainer.state.log_history
    if (folder / CARD).is_file() and GENERATED not in (ModelCard.load(folder / CARD).data.tags or ()):
        return
    figures = []
    if any("eval_loss" in entry for entry in history):
        plots = records(folder) / PLOTS
        plots.mkdir(parents=True, exist_ok=True)
        # The first of the main metrics that was measured; of several tasks their mean.
        mains = ("mean", *(selection_metrics(kind)[0] for kind in PROBLEM_METRICS))
        measured = [name for name in mains if any(f"eval_{name}" in entry for entry in history)]
        plot_training_curves(history, plots / "training_curves.png", *measured[:1])
        what = f"Loss and {inline_name(measured[0])}" if measured else "Loss"
        figures.append((f"{what} by epoch.", figure("training_curves.png")))
    trainer_card(trainer, figures, *args, **kwargs).save(folder / CARD)


def own_labels(config: PreTrainedConfig) -> list[str]:
    """Return the names of a model's labels, none if they are the ones that transformers makes up."""
    names = [str(config.id2label[index]) for index in range(config.num_labels)]
    return [] if names == [f"LABEL_{index}" for index in range(config.num_labels)] else names


def encoder_source(model: PreTrainedModel) -> str:
    """Return the folder or Hub id that the encoder was loaded from, or an empty string."""
    return str(
        getattr(model.config.get_text_config(), "_name_or_path", "") or model.config._name_or_path or ""
    )


def evaluated(trainer: Trainer) -> dict[str, float]:
    """Return the metrics of the evaluation of the Trainer's weights, without `eval_`; empty if there was none."""
    history, best = trainer.state.log_history, trainer.state.best_global_step
    steps = [entry["step"] for entry in history if any(name.startswith("eval_") for name in entry)]
    if not steps:
        return {}
    step = best if trainer.args.load_best_model_at_end and best in steps else steps[-1]
    return {
        name.removeprefix("eval_"): value
        for entry in history
        if entry["step"] == step
        for name, value in entry.items()
        if name.startswith("eval_") and not name.endswith(NO_METRIC) and isinstance(value, int | float)
    }


def _listed(value: str | Sequence[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())
