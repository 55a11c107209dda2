"""Options that need the number of rows, and are refused for a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from transformers import TrainingArguments
from transformers.trainer_utils import has_length

from hf_layerfusion.errors import UserError


class NeedsLength(NamedTuple):
    """An option that needs the number of rows.

    Attributes:
        option: its name.
        way_out: what to do, short of loading the data without streaming.
        is_given: whether a value of `option` asks for what needs a length.
    """

    option: str
    way_out: str
    is_given: Callable[[Any], bool]


NEED_LENGTH = (
    NeedsLength(
        "train_sampling_strategy",
        "set random (a stream keeps its own order: shuffle it by its shuffle method)",
        lambda value: value in ("group_by_length", "batch_rebalance"),
    ),
    NeedsLength("class_balance", "set class_balance=none", lambda value: value != "none"),
    NeedsLength("unfreeze_per_epoch", "leave it out", lambda value: value is not None),
    NeedsLength("head_first_epochs", "leave it out", lambda value: value is not None),
    NeedsLength("epoch_decay", "set epoch_decay=1", lambda value: value != 1),
)


def check_stream(train_dataset: Any, args: TrainingArguments) -> None:
    """Check that `args` can train on data of unknown length; a data set with a length passes.

    `max_steps` says when training on a stream ends; where the stream ends before, it starts over. `cache_frozen_states`
    checks for itself what it reads.

    Raises:
        UserError: no `max_steps`; an option that needs the number of rows or of steps in an epoch; or, with several
            processes, one that reads rows out of turn.
    """
    if train_dataset is None or has_length(train_dataset):
        return
    found = f"found a stream ({type(train_dataset).__name__})"
    if args.max_steps <= 0:
        raise UserError(
            f"num_train_epochs needs training data of a known length, {found}; set max_steps or load the data "
            "without streaming"
        )
    for rule in NEED_LENGTH:
        value = getattr(args, rule.option)
        if rule.is_given(value):
            raise UserError(
                f"{rule.option}={value} needs training data of a known length, {found}; {rule.way_out} or load the "
                "data without streaming"
            )
    if args.world_size > 1:
        config: Any = args.accelerator_config
        options = {
            "dataloader_num_workers": (args.dataloader_num_workers, 0),
            "accelerator_config.dispatch_batches": (config.dispatch_batches, False),
            "accelerator_config.split_batches": (config.split_batches, False),
        }
        for name, (value, needed) in options.items():
            if value:
                raise UserError(
                    f"{name}={value} shares a stream out among processes with rows lost or repeated, {found}; set "
                    f"{name}={needed}, so that every process reads the stream and takes its share of each batch"
                )
