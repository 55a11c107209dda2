"""Injection of noise into a model, at the word embeddings or at the output of an encoder layer.

Noise is added by a hook on the embedding module itself instead of passing `inputs_embeds` to the model. Position
embeddings and LayerNorm are thus applied once, whatever the encoder. Everything that an encoder derives from
`input_ids` is unchanged (RoBERTa and MPNet skip padding in their position ids only if they receive the ids). Models
with several encoders or without `inputs_embeds` work too, and zero noise reproduces the plain pass bit for bit.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_layerfusion.errors import UserError
from hf_layerfusion.regularizers.encoder_layers import replaced_forward, require_encoders, require_layers
from hf_layerfusion.regularizers.rng_states import RandomStates


class NoiseSite(NamedTuple):
    """State to which noise is added in each pass.

    Attributes:
        state: The state in the clean pass, part of its graph, `[N, T, H]`: N texts of T tokens.
        mask: `[N, T, 1]`, 1 for real tokens, 0 for padding.
    """

    state: Tensor
    mask: Tensor


class NoiseInjector(ABC):
    """Base class of the injectors of noise into a model.

    Attributes:
        sites: States that receive noise, in the order of the clean pass. There is one, unless the model runs several
            encoders.
    """

    def __init__(self, model: nn.Module) -> None:
        self.encoders = require_encoders(model)
        self.sites: list[NoiseSite] = []
        self._mask: Tensor | None = None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Context that finds the sites while the clean pass runs.

        Raises:
            UserError: If there is no state to add noise to, or the noise would be lost.
        """
        with ExitStack() as stack:
            for encoder in self.encoders:
                handle = encoder.register_forward_pre_hook(self._remember_mask, with_kwargs=True)
                stack.callback(handle.remove)
            stack.enter_context(self._recording())
            yield
        if not self.sites:
            raise UserError(
                "noise needs a model whose pass runs through the word embeddings of a transformers encoder, found "
                "none; give the model input_ids, not inputs_embeds, and use a PreTrainedModel"
            )

    @abstractmethod
    def _recording(self) -> Any: ...

    @abstractmethod
    def inject(self, noise: Sequence[Tensor], same_dropout: bool) -> Any:
        """Return a context in which a pass has `noise`, one tensor for each site, added to its states."""

    def _remember_mask(self, encoder: nn.Module, args: Any, kwargs: Any) -> None:
        given = inspect.signature(encoder.forward).bind_partial(*args, **kwargs).arguments
        self._mask = given.get("attention_mask")

    def _add_site(self, state: Any) -> None:
        if not isinstance(state, Tensor) or state.dim() != 3:
            raise UserError(
                "noise needs states [N, T, H] with their padding, found "
                f"{list(state.shape) if isinstance(state, Tensor) else type(state).__name__}; load the model with "
                "attn_implementation='sdpa' or 'eager'"
            )
        if state.dtype not in (torch.float32, torch.float64):
            raise UserError(
                f"noise is too small for weights in {state.dtype}; load the model with dtype=float32, and set bf16 or "
                "fp16 for its arithmetic"
            )
        mask = state.new_ones(state.shape[:2]) if self._mask is None else self._mask
        if mask.dim() == 2 and mask.shape[1] < state.shape[1]:
            # Longformer pads texts to a multiple of its window.
            mask = F.pad(mask, (0, state.shape[1] - mask.shape[1]))
        if mask.shape != state.shape[:2]:
            raise UserError(
                f"noise needs an attention_mask {list(state.shape[:2])} to spare the padding, found "
                f"{list(mask.shape)}; give the usual mask of ones and zeros, and for tasks that share their rows set "
                "the noise below the tasks' own layers"
            )
        self.sites.append(NoiseSite(state, (mask != 0).unsqueeze(-1).to(state)))


class EmbeddingNoise(NoiseInjector):
    """Noise on the output of the word embeddings, before positions, token types and LayerNorm."""

    @property
    def _embeddings(self) -> list[nn.Module]:
        return list(dict.fromkeys(encoder.get_input_embeddings() for encoder in self.encoders))

    @contextmanager
    def _recording(self) -> Iterator[None]:
        with _hooked(self._embeddings, lambda module, args, output: self._add_site(output)):
            yield

    @contextmanager
    def inject(self, noise: Sequence[Tensor], same_dropout: bool) -> Iterator[None]:
        """Add noise to the word embeddings of the clean pass."""
        # Add noise to the embeddings of the clean pass, so that the large gradient of the table is computed only once.
        states = iter([site.state + each for site, each in zip(self.sites, noise, strict=True)])
        with _hooked(self._embeddings, lambda module, args, output: next(states)):
            yield


class LayerNoise(NoiseInjector):
    """Noise on the output of a layer of every encoder.

    The layers up to this one are not run again: further passes use their outputs in the clean pass.

    Args:
        model: The model.
        layer: Index of the layer, from 1 to L − 1.

    Raises:
        UserError: If the encoder does not have this layer, or its layers are not in one list.
    """

    def __init__(self, model: nn.Module, layer: int) -> None:
        super().__init__(model)
        self._below = [require_layers(encoder)[:layer] for encoder in self.encoders]
        for encoder in self.encoders:
            depth = encoder.config.num_hidden_layers
            if not 1 <= layer < depth:
                raise UserError(
                    f"the layer that noise is added to must lie between 1 and {depth - 1} of {depth}, found {layer}; "
                    "0 adds it to the word embeddings"
                )
        # Outputs of each of these layers, and the random states after the last of them.
        self._outputs: dict[nn.Module, list[Any]] = {layer: [] for below in self._below for layer in below}
        self._states: list[RandomStates] = []

    @contextmanager
    def _recording(self) -> Iterator[None]:
        last = {below[-1] for below in self._below}

        def record(module: nn.Module, args: Any, output: Any) -> None:
            self._outputs[module].append(output)
            if module in last:
                self._add_site(_state(output))
                self._states.append(RandomStates.capture(_state(output).device))

        with _hooked(list(self._outputs), record):
            yield

    @contextmanager
    def inject(self, noise: Sequence[Tensor], same_dropout: bool) -> Iterator[None]:
        """Add noise to the recorded outputs of the layer."""
        remaining = iter(zip(noise, self._states, strict=True))

        def recorded(outputs: list[Any], is_last: bool) -> Callable[..., Any]:
            coming = iter(outputs)

            def forward(*args: Any, **kwargs: Any) -> Any:
                output = next(coming)
                if not is_last:
                    return output
                added, states = next(remaining)
                if same_dropout:
                    states.restore()
                state = _state(output) + added
                return state if isinstance(output, Tensor) else (state, *output[1:])

            return forward

        with ExitStack() as stack:
            for below in self._below:
                for layer in below:
                    forward = recorded(self._outputs[layer], layer is below[-1])
                    stack.enter_context(replaced_forward(layer, forward))
            yield


def _state(output: Any) -> Any:
    return output if isinstance(output, Tensor) else output[0]


@contextmanager
def _hooked(modules: Sequence[nn.Module], hook: Callable[..., Any]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
