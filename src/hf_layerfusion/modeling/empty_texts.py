"""Empty texts, of which tokenizers without special tokens return no token."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

Method = TypeVar("Method", bound=Callable[..., Any])


def pads_empty_texts(method: Method) -> Method:
    """Decorate a method of a model, which takes `input_ids` first, to see its arguments as `with_tokens` returns
    them.
    """

    @functools.wraps(method)
    def padding(self: Any, *args: Any, **kwargs: Any) -> Any:
        ids = args[0] if args else kwargs.get("input_ids")
        # A test of the length would be a graph of its own.
        if torch.compiler.is_compiling() or have_tokens(ids, kwargs.get("encoder_states")):
            return method(self, *args, **kwargs)
        given = inspect.signature(method).bind_partial(self, *args, **kwargs).arguments
        others = given.pop("kwargs", {})
        return method(**with_tokens({**given, **others}, self.config))

    return padding  # type: ignore[return-value]


def have_tokens(input_ids: torch.Tensor | None, encoder_states: torch.Tensor | None) -> bool:
    """Return whether ids `[..., T]` and states `[..., R, T, H]`, where they are given, have a token."""
    if encoder_states is not None and encoder_states.dim() >= 4 and encoder_states.shape[-2] == 0:
        return False
    return input_ids is None or input_ids.shape[-1] > 0


def with_tokens(inputs: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Return a model's inputs; where all texts of a batch are empty, with one token of padding for each.

    Beside longer texts they have padding alone, too, so that the output for an empty text does not depend on the batch.

    Args:
        inputs: by the names of the model's arguments, `input_ids` `[..., T]` or `encoder_states` `[..., R, T, H]` among
            them.
        config: the model's configuration.
    """
    ids, states = inputs.get("input_ids"), inputs.get("encoder_states")
    found = dict(inputs)
    if have_tokens(ids, states):
        return found
    if ids is None:
        given: Any = states
        found["encoder_states"] = given.new_zeros((*given.shape[:-2], 1, given.shape[-1]))
        mask = torch.zeros((*given.shape[:-3], 1), dtype=torch.long, device=given.device)
        return found | {"attention_mask": mask}
    size = (*ids.shape[:-1], 1)
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor) and value.shape[: ids.dim()] == ids.shape:
            width = (1,) if name in getattr(config, "extra_inputs", ()) else ()
            found[name] = value.new_zeros((*size, *width))
    found["input_ids"] += getattr(config.get_text_config(), "pad_token_id", None) or 0
    return found | {"attention_mask": torch.zeros(size, dtype=torch.long, device=ids.device)}
