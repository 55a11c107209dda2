"""Report on how much a run's model uses each layer, for its folder and card."""

from datasets import Dataset

from hf_layerfusion.evaluation.layer_use import LayerUse, layer_use
from hf_layerfusion.hub.markdown import markdown_table
from hf_layerfusion.training.parameter_parts import base_model_of
from hf_layerfusion.training.trainer import LayerFusionTrainer

NUM_TEXTS = 500
LAYERS_TITLE = "Use of layers"


def measure_layers(trainer: LayerFusionTrainer, examples: Dataset) -> LayerUse | None:
    """Measure the use of layers on the first `NUM_TEXTS` examples; None for a model without a fuser."""
    model = base_model_of(trainer.model)
    if not hasattr(model.base_model, "fuser"):
        return None
    part = examples.select(range(min(NUM_TEXTS, len(examples))))
    return layer_use(model, trainer.get_local_dataloader(part))


def layers_section(use: LayerUse | None) -> str:
    """Return the card's section on the layers as Markdown; None stands for a model of one task without a fuser."""
    if use is None:
        return "The model reads only the last layer of each encoder."
    what = "the rise in loss" if use.accuracy_drop is None else "the drop in accuracy and the rise in loss"
    intervals = "" if use.loss_rise_error is None else ", with 95 % intervals over the texts"
    return (
        f"Measured on {use.num_texts:,} validation texts: {what} when one layer's states are replaced by their mean "
        f"over the data{intervals}. Layers with similar information can substitute for each other, so each of them "
        "alone may show a small difference.\n\n" + markdown_table(*use.table())
    )
