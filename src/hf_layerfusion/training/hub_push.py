"""Pushes of checkpoints to the Hub in the background, without pickles, whose failures are not silent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from transformers.trainer import (
    OPTIMIZER_NAME,
    SCALER_NAME,
    SCHEDULER_NAME,
    TRAINER_STATE_NAME,
    TRAINING_ARGS_NAME,
)
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import logging
from transformers.utils.hub import PushInProgress

from hf_layerfusion.hub.publish import PushError, open_repository, push_folder
from hf_layerfusion.training.checkpoints import MANIFEST_NAME
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

logger = logging.get_logger(__name__)

# Files of a checkpoint that only resuming needs.
_FOR_RESUMING = (OPTIMIZER_NAME, SCHEDULER_NAME, SCALER_NAME, "rng_state*", TRAINER_STATE_NAME, MANIFEST_NAME)
_IN_TURN = HfApi()  # runs one job after the other
_COPY = "_push-"  # what begins so is itself never pushed


def open_run_repository(
    args: LayerFusionTrainingArguments, token: str | None = None, private: bool | None = None
) -> str:
    """Open the repository of a run, and return its name.

    Args:
        args: The run's options; the folder's name stands in for a missing `hub_model_id`.
        token: In place of `hub_token`.
        private: In place of `hub_private_repo`.

    Raises:
        PushError: The token may not write to it.
    """
    return open_repository(
        args.hub_model_id or Path(str(args.output_dir)).absolute().name,
        token=args.hub_token if token is None else token,
        private=args.hub_private_repo if private is None else private,
        revision=args.hub_revision,
    )


class HubPush:
    """Pushes the checkpoints of a run, each from a copy of hard links, so that neither later saves nor the deletion of
    old checkpoints affect what is being sent.

    A save that failed, or that was skipped because the push before it was still under way, is pushed again by `finish`,
    unless a later one has been pushed since. All methods are for the main process.

    Args:
        args: The run's options.
        repository: Returns the name of the repository.
    """

    def __init__(self, args: LayerFusionTrainingArguments, repository: Callable[[], str]) -> None:
        self.args, self.repository = args, repository
        self._skipped: Path | None = None  # the copy of a save that waits for the push under way

    def begin(self) -> None:
        """Remove the copies that a run before has left."""
        self._remove_copies()

    def finish(self) -> None:
        """Push the last save if it has not arrived.

        Raises:
            PushError: It cannot be pushed.
        """
        copies = self._copies()
        try:
            if copies:
                self.push_copy(copies[-1])
        finally:
            self._remove_copies()

    def push_folder(
        self, message: str, token: str | None, revision: str | None, blocking: bool
    ) -> CommitInfo | Future[CommitInfo]:
        """Push `output_dir`; return the commit, or without `blocking` a future of it.

        Raises:
            PushError: It cannot be pushed.
        """
        push = partial(
            push_folder,
            str(self.args.output_dir),
            self.repository(),
            token=self.args.hub_token if token is None else token,
            revision=self.args.hub_revision if revision is None else revision,
            message=message,
        )
        return push() if blocking else _IN_TURN.run_as_future(push)

    def push_checkpoint(
        self,
        folder: Path,
        step: int,
        epoch: float,
        in_progress: PushInProgress | None,
        on_begin: Callable[[], Any],
    ) -> PushInProgress | None:
        """Push a checkpoint in the background, as `hub_strategy` says.

        Args:
            folder: The checkpoint.
            step: The step it was saved at, for the message.
            epoch: The epoch it was saved at, for the message.
            in_progress: The pushes under way.
            on_begin: Called before the push.

        Returns:
            The pushes under way.
        """
        if self.args.hub_strategy == HubStrategy.END:
            return in_progress
        is_busy = in_progress is not None and not in_progress.is_done()
        if not is_busy:
            self._remove_copies()
        elif self._skipped is not None:
            shutil.rmtree(self._skipped, ignore_errors=True)
        self._skipped = None
        copy = _copy_of(folder)
        if is_busy and not self.args.hub_always_push:
            self._skipped = copy
            return in_progress
        on_begin()
        by_step = self.args.save_strategy == SaveStrategy.STEPS
        progress = f"step {step}" if by_step else f"epoch {int(epoch)}"
        job = _IN_TURN.run_as_future(self._push_in_background, copy, f"Training in progress, {progress}")
        if in_progress is None or not is_busy:
            return PushInProgress([job])
        in_progress.jobs.append(job)
        return in_progress

    def _push_in_background(self, copy: Path, message: str) -> None:
        try:
            self.push_copy(copy, message)
        except PushError as error:
            logger.warning(
                f"{error} Training goes on, and the save is pushed again with a later one or at the end."
            )
            raise

    def push_copy(self, copy: Path, message: str = "Last save of the training") -> None:
        """Push the copy of a checkpoint; once it has arrived, it and older ones are deleted."""
        parts: dict[str, tuple[str, ...]] = {"": (TRAINING_ARGS_NAME, *_FOR_RESUMING)}
        if self.args.hub_strategy == HubStrategy.CHECKPOINT:
            parts["last-checkpoint"] = (TRAINING_ARGS_NAME,)
        elif self.args.hub_strategy == HubStrategy.ALL_CHECKPOINTS:
            parts[copy.name.removeprefix(_COPY)] = (TRAINING_ARGS_NAME,)
        for path, leave_out in parts.items():
            push_folder(
                copy,
                self.repository(),
                token=self.args.hub_token,
                revision=self.args.hub_revision,
                message=f"{message}, checkpoint" if path else message,
                path_in_repo=path,
                leave_out=leave_out,
            )
        copies = self._copies()
        for old in copies[: copies.index(copy) + 1]:
            shutil.rmtree(old, ignore_errors=True)

    def _copies(self) -> list[Path]:
        """Return the copies of checkpoints that have not arrived, the newest last."""
        found = Path(str(self.args.output_dir)).rglob(f"{_COPY}*")
        return sorted(found, key=lambda copy: int(copy.name.rpartition("-")[2]))

    def _remove_copies(self) -> None:
        for copy in self._copies():
            shutil.rmtree(copy, ignore_errors=True)


def _copy_of(checkpoint: Path) -> Path:
    """Copy a checkpoint to a folder beside it, by hard links where the file system has them."""
    copy = checkpoint.with_name(f"{_COPY}{checkpoint.name}")
    shutil.rmtree(copy, ignore_errors=True)
    try:
        shutil.copytree(checkpoint, copy, copy_function=os.link)
    except (OSError, shutil.Error):
        shutil.copytree(checkpoint, copy, dirs_exist_ok=True)
    return copy
