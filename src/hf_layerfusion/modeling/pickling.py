"""Copying and pickling of models whose encoders record their hidden states."""

import copy
import copyreg
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.utils import output_capturing


class PickledWithoutHooks:
    """Mixin that makes a module that has run compatible with `pickle`, `torch.save` and `copy`.

    To record hidden states, transformers registers hooks on an encoder's layers in the first forward pass. These hooks
    are local functions, which cannot be pickled. They are left out of the pickle, and transformers registers them again
    in the first forward pass of the loaded model.
    """

    def __copy__(self) -> Any:
        # The default shallow copy without `__reduce_ex__`: submodules and weights are shared.
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
        # Copy the modules but share the weights.
        shared = [*module.parameters(), *module.buffers()]
        clone = copy.deepcopy(module, {id(tensor): tensor for tensor in shared})
        remove_recording_hooks(clone)
        return copyreg.__newobj__, (type(self),), clone.__dict__  # type: ignore[attr-defined]

    def __setstate__(self, state: dict[str, Any]) -> None:
        module: Any = self
        nn.Module.__setstate__(module, state)
        # transformers fills this registry only for classes that were instantiated in this process.
        for each in module.modules():
            if isinstance(each, PreTrainedModel):
                key = str(type(each))
                dict.__setitem__(output_capturing._CAN_RECORD_REGISTRY, key, each._can_record_outputs)


def remove_recording_hooks(model: nn.Module) -> None:
    """Remove transformers' hooks that record hidden states and attentions; the next pass registers them again."""
    for module in model.modules():
        module.__dict__.pop("_output_capturing_hooks_installed", None)
        for key, hook in list(module._forward_hooks.items()):
            if getattr(hook, "__module__", None) == output_capturing.__name__:
                del module._forward_hooks[key]
