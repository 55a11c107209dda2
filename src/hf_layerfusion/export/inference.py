"""Frozen copy of a model for inference with little memory."""

import copy
from typing import Any

from transformers import PreTrainedModel

from hf_layerfusion.errors import UserError


def inference_copy(model: PreTrainedModel) -> Any:
    """Return a frozen copy of `model` for inference, which fuses each layer as soon as it is computed.

    States are then not kept until the encoder is done, and the copy returns no hidden states. Everything else is as in
    the model; `pipeline` accepts the copy too.

    Fusers that concatenate groups of layers keep, for one group at a time, its states or their projections for the
    group's recurrence, whichever is smaller. A CerBERTus task without a `fusion` uses only its encoder's output, so
    that nothing is kept in any case.

    Args:
        model: Any model of the package, or a plain classifier.

    Raises:
        UserError: If the layers of its encoder are not in one list, as in ALBERT.
    """
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    frozen.config.output_hidden_states = False
    if hasattr(frozen.base_model, "stream_layers"):
        try:
            frozen.base_model.stream_layers()
        except ValueError as error:
            raise UserError(str(error)) from error
    return frozen
