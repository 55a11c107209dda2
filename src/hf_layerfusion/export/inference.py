"""A copy of a model that does nothing but answer, in as little memory as that takes."""

import copy
from typing import Any

from transformers import PreTrainedModel

from hf_layerfusion.errors import UserError


def inference_copy(model: PreTrainedModel) -> Any:
    """A frozen copy of `model` for inference. It fuses each layer as it comes, so that states are not kept until the
    encoder is done, and returns no hidden states. Everything else is as in the model: `pipeline` takes it too.

    The fusers that put groups of layers side by side keep, of one group at a time, its states or what these give the
    group's recurrence, whichever is less. A CerBERTus task reads its encoder's output alone, so that nothing is
    kept there anyway, unless it declares a `fusion`.

    Args:
        model: any model of the package, or a plain classifier.

    Raises:
        UserError: if the layers of its encoder do not stand in one list, as ALBERT's.
    """
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    frozen.config.output_hidden_states = False
    if hasattr(frozen.base_model, "stream_layers"):
        try:
            frozen.base_model.stream_layers()
        except ValueError as error:
            raise UserError(str(error)) from error
    return frozen
