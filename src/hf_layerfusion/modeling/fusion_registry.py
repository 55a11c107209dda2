"""Registry of the token fusers; a new fuser is one class in a `fusion_*.py` file and one row here."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from .choices import unknown_name
from .fusion_base import LayerFuser
from .fusion_depth import DepthFuser
from .fusion_grouped import GroupedFuser, consecutive_groups
from .fusion_mix import MixedFuser

if TYPE_CHECKING:
    from .configuration_gru_fusion import GRUFusionConfig


def last_layers(config: "GRUFusionConfig") -> tuple[int, ...]:
    """Return the indices of the top `num_last_layers` layers.

    Raises:
        ValueError: If the encoder has fewer layers.
    """
    depth = config.num_hidden_layers
    if config.num_last_layers > depth:
        raise ValueError(
            f"`num_last_layers` must be at most the encoder's depth, found {config.num_last_layers} for "
            f"{depth} layers; lower it."
        )
    return tuple(range(depth - config.num_last_layers, depth))


def _grouped(
    config: "GRUFusionConfig", fuser: type[GroupedFuser] | type[DepthFuser], shared: bool
) -> LayerFuser:
    groups = consecutive_groups(config.num_hidden_layers, config.num_groups)
    return fuser(groups, config.hidden_size, config.fusion_hidden_size, config.fusion_cell, shared)


def _last_concat(config: "GRUFusionConfig") -> LayerFuser:
    return GroupedFuser(
        (last_layers(config),), config.hidden_size, config.fusion_hidden_size, config.fusion_cell, shared=True
    )


def _mixed(config: "GRUFusionConfig", layers: tuple[int, ...], learned: bool) -> LayerFuser:
    return MixedFuser(layers, learned, config.hidden_size, config.fusion_hidden_size, config.fusion_cell)


TOKEN_FUSERS: dict[str, Callable[["GRUFusionConfig"], LayerFuser]] = {
    "share": lambda config: _grouped(config, GroupedFuser, shared=True),
    "cat": lambda config: _grouped(config, GroupedFuser, shared=False),
    "share_depth": lambda config: _grouped(config, DepthFuser, shared=True),
    "cat_depth": lambda config: _grouped(config, DepthFuser, shared=False),
    "last_concat": _last_concat,
    "last_mean": lambda config: _mixed(config, last_layers(config), learned=False),
    "scalar_mix": lambda config: _mixed(config, tuple(range(config.num_hidden_layers)), learned=True),
}


def build_token_fuser(config: "GRUFusionConfig") -> LayerFuser:
    """Return the fuser named by `config.fusion`.

    Raises:
        ValueError: If there is no such fuser.
    """
    if config.fusion not in TOKEN_FUSERS:
        raise unknown_name("fusion", config.fusion, TOKEN_FUSERS)
    return TOKEN_FUSERS[config.fusion](config)
