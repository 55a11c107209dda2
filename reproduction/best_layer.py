"""Probe of the best single layer of a frozen encoder, chosen on the training rows."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hf_layerfusion.data.arrow_tables import column_values
from hf_layerfusion.evaluation.linear_probe import LinearProbe, fit_linear_probe
from hf_layerfusion.modeling.modeling_layer_pooling import LayerPoolingModel
from hf_layerfusion.probing.settings import load_settings, resolve_max_length, token_pooling
from hf_layerfusion.probing.vectors import read_vectors
from hf_layerfusion.recipes.data_preparation import PreparedData
from hf_layerfusion.recipes.model_setup import loading_options, resolve_path
from hf_layerfusion.recipes.recipe_arguments import CheckpointArguments


class BestLayer(NamedTuple):
    """Probe of the layer that is best in cross-validation on the training rows.

    Attributes:
        layer: the layer; 1 is the first.
        outputs: the probe's outputs for the test rows, `[N, C]`.
        parameters: number of parameters of the encoder and the probe.
    """

    layer: int
    outputs: npt.NDArray[np.float64]
    parameters: int


def best_layer(
    data: PreparedData,
    checkpoint: CheckpointArguments,
    *,
    apart: bool,
    cache_dir: str,
    batch_size: int,
    seed: int,
) -> BestLayer:
    """Fit a probe to the mean of the tokens at each layer and return the best one.

    Args:
        data: texts and labels, with a split `test`.
        checkpoint: the encoder.
        apart: whether to encode the two texts of a pair separately.
        cache_dir: folder of the cached states.
        batch_size: texts per batch of the encoder.
        seed: seed of the cross-validation.
    """
    encoder, options = resolve_path(checkpoint.model_name_or_path), loading_options(checkpoint)
    config, tokenizer = load_settings(encoder, **options)
    model = LayerPoolingModel.from_pretrained(
        encoder, pooling="concat", token_pooling=token_pooling(config), **options
    )
    train, test = read_vectors(
        model,
        tokenizer,
        [data.splits[name].select_columns(list(data.text_columns)) for name in ("train", "test")],
        apart=apart,
        max_length=resolve_max_length(config, tokenizer, None, len(data.text_columns) == 2),
        cache_dir=cache_dir,
        batch_size=batch_size,
    )
    targets = np.asarray(column_values(data.splits["train"], "label"))
    is_regression = data.schema.problem_type == "regression"
    probes: list[LinearProbe] = [
        fit_linear_probe(
            train.features((layer,), "mean"),
            targets,
            "regression" if is_regression else "single_label_classification",
            num_classes=None if is_regression else len(data.schema.names),
            seed=seed,
        )
        for layer in range(train.num_layers)
    ]
    layer = int(np.argmax([probe.cv_score for probe in probes]))
    found = probes[layer]
    return BestLayer(
        layer + 1,
        found.outputs(test.features((layer,), "mean")),
        sum(parameter.numel() for parameter in model.parameters()) + found.weight.size + found.bias.size,
    )
