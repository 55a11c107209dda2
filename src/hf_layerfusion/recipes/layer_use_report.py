"""Which layers the model of a run uses, for its folder and card."""

from datasets import Dataset
from torch.utils.data import DataLoader

from hf_layerfusion.evaluation.layer_use import LayerUse, layer_use
from hf_layerfusion.hub.markdown import markdown_table
from hf_layerfusion.training.parameter_parts import base_model_of
from hf_layerfusion.training.trainer import LayerFusionTrainer

NUM_TEXTS = 500
LAYERS_TITLE = "Which layers the model uses"


def measure_layers(trainer: LayerFusionTrainer, examples: Dataset) -> LayerUse | None:
    """Measures the layers' use on the first `NUM_TEXTS` of `examples`; `None` for a model without a fuser."""
    model = base_model_of(trainer.model)
    if not hasattr(model.base_model, "fuser"):
        return None
    part = examples.select(range(min(NUM_TEXTS, len(examples))))
    batches = DataLoader(part, batch_size=trainer.args.eval_batch_size, collate_fn=trainer.data_collator)
    return layer_use(model, batches)


def layers_section(use: LayerUse | None) -> str:
    """The card's section on the layers, as Markdown; `None` is a model without a fuser."""
    if use is None:
        return "The last one of each encoder alone: those below reach the answer only through it."
    return (
        f"Measured on {use.num_texts} validation texts: what is lost when one layer's states "
        "are replaced by their mean over the data, everything else kept. Layers that say the same can stand in for "
        "each other, so each of them alone may show a small loss.\n\n" + markdown_table(*use.table())
    )
