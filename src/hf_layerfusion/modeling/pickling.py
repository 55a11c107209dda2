"""Copying and pickling of models whose encoders record their hidden states."""

import copy
import copyreg
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.utils import output_capturing


class PickledWithoutHooks:
    """Makes a module that has run fit for `pickle`, `torch.save` and `copy`.

    To record hidden states, transformers registers hooks on an encoder's layers in the first forward pass. These hooks
    are local functions, which Python cannot pickle. They are left out of the pickle, and transformers registers them
    anew in the first pass of the model that is loaded from it.
    """

    def __copy__(self) -> Any:
        # What the default would do by way of `__reduce_ex__`: submodules and weights are shared.
        shallow = type(self).__new__(type(self))
        shallow.__dict__.update(self.__dict__)
        return shallow

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        deep = type(self).__new__(type(self))
        memo[id(self)] = deep
        deep.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return deep

    def __reduce_ex__(self, protocol: Any) -> Any:
        module: Any = self
        # The modules are copied, the weights are not.
        shared = [*module.parameters(), *module.buffers()]
        clone = copy.deepcopy(module, {id(tensor): tensor for tensor in shared})
        remove_recording_hooks(clone)
        return copyreg.__newobj__, (type(self),), clone.__dict__  # type: ignore[attr-defined]

    def __setstate__(self, state: dict[str, Any]) -> None:
        module: Any = self
        nn.Module.__setstate__(module, state)
        # Known to transformers only of classes that were instantiated in this process.
        for each in module.modules():
            if isinstance(each, PreTrainedModel):
                key = str(type(each))
                dict.__setitem__(output_capturing._CAN_RECORD_REGISTRY, key, each._can_record_outputs)


def remove_recording_hooks(model: nn.Module) -> None:
    """Removes transformers' hooks that record hidden states and attentions; the next pass registers them again."""
    for module in model.modules():
        module.__dict__.pop("_output_capturing_hooks_installed", None)
        for key, hook in list(module._forward_hooks.items()):
            if getattr(hook, "__module__", None) == output_capturing.__name__:
                del module._forward_hooks[key]
