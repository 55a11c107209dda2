"""A Trainer whose pushes to the Hub hold no pickle of its arguments, keep the card, and do not fail in silence."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi, ModelCard
from transformers import Trainer
from transformers.trainer import (
    OPTIMIZER_NAME,
    SCALER_NAME,
    SCHEDULER_NAME,
    TRAINER_STATE_NAME,
    TRAINING_ARGS_NAME,
)
from transformers.trainer_utils import HubStrategy, SaveStrategy, TrainOutput
from transformers.utils import logging
from transformers.utils.hub import PushInProgress

from hf_layerfusion.evaluation.plots.run_plots import plot_training_curves
from hf_layerfusion.hub.publish import CARD, PushError, open_repository, push_folder
from hf_layerfusion.training.checkpoints import MANIFEST_NAME
from hf_layerfusion.training.trainer_card import GENERATED, trainer_card
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

logger = logging.get_logger(__name__)

# Of a checkpoint, what only resuming needs.
_FOR_RESUMING = (OPTIMIZER_NAME, SCHEDULER_NAME, SCALER_NAME, "rng_state*", TRAINER_STATE_NAME, MANIFEST_NAME)
_IN_TURN = HfApi()  # runs one job after the other
_COPY = "_push-"  # what begins so is itself never pushed


class PushingTrainer(Trainer):
    """The stock Trainer, whose pushes leave out `training_args.bin` and whose failures are told.

    In the background each save is pushed from a copy of its own, of hard links, so that neither later saves nor the
    deletion of old checkpoints touch what is being sent. A save that failed, or that was skipped because the push
    before it was still under way, is pushed again when training ends, unless a later one has been pushed since.
    """

    args: LayerFusionTrainingArguments
    hub_model_id: str | None
    push_in_progress: PushInProgress | None
    _skipped: Path | None = None  # the copy of a save that waits for the one under way

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As the stock method.

        Raises:
            PushError: the last save has not reached the Hub; training itself is done, and `push_to_hub` pushes the
                model.
        """
        self._remove_copies()
        output = super().train(*args, **kwargs)
        copies = self._copies()
        try:
            if copies:
                self._push_copy(copies[-1])
        finally:
            self._remove_copies()
        return output

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As the stock method; the repository must be one that the token may write to.

        Raises:
            PushError: if it is not.
        """
        if not self.is_world_process_zero():
            return
        args = self.args
        self.hub_model_id = open_repository(
            args.hub_model_id or Path(str(args.output_dir)).absolute().name,
            token=args.hub_token if token is None else token,
            private=args.hub_private_repo if private is None else private,
            revision=args.hub_revision,
        )
        self.push_in_progress = None

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> CommitInfo | Future[CommitInfo] | None:
        """Save the model and its card and push `output_dir`, without what `NEVER_PUSHED` names.

        Args:
            commit_message: As for `Trainer.push_to_hub`, as are `blocking`, `token`, `revision` and `private`.
            **kwargs: As for `create_model_card`.

        Returns:
            The commit, without `blocking` a future of it; None but for the main process.

        Raises:
            PushError: if it cannot be pushed; `output_dir` is whole then.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        self._finish_current_push()
        push = partial(
            push_folder,
            str(self.args.output_dir),
            str(self.hub_model_id),
            token=self.args.hub_token if token is None else token,
            revision=self.args.hub_revision if revision is None else revision,
            message=commit_message or "End of training",
        )
        return push() if blocking else _IN_TURN.run_as_future(push)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write a card of what the Trainer knows into `output_dir`, with a plot of its training. A card that is there
        and not a Trainer's own is left as it is.

        Args:
            *args: As for `Trainer.create_model_card`.
            **kwargs: As for `Trainer.create_model_card`.
        """
        if not self.is_world_process_zero():
            return
        folder = Path(str(self.args.output_dir))
        if (folder / CARD).is_file() and GENERATED not in (ModelCard.load(folder / CARD).data.tags or ()):
            return
        figures = []
        if any("eval_loss" in entry for entry in self.state.log_history):
            (folder / "plots").mkdir(parents=True, exist_ok=True)
            plot_training_curves(self.state.log_history, folder / "plots" / "training_curves.png")
            figures.append(("Loss and accuracy by epoch.", "plots/training_curves.png"))
        trainer_card(self, figures, *args, **kwargs).save(folder / CARD)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if not busy:
            self._remove_copies()
        elif self._skipped is not None:
            shutil.rmtree(self._skipped, ignore_errors=True)
        self._skipped = None
        copy = _copy_of(Path(checkpoint_folder))
        if busy and not self.args.hub_always_push:
            self._skipped = copy
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        job = _IN_TURN.run_as_future(self._push_in_background, copy, self._progress())
        if self.push_in_progress is not None and busy:
            self.push_in_progress.jobs.append(job)
        else:
            self.push_in_progress = PushInProgress([job])

    def _progress(self) -> str:
        if self.args.save_strategy == SaveStrategy.STEPS:
            return f"Training in progress, step {self.state.global_step}"
        return f"Training in progress, epoch {int(self.state.epoch or 0)}"

    def _push_in_background(self, copy: Path, message: str) -> None:
        try:
            self._push_copy(copy, message)
        except PushError as error:
            logger.warning(
                f"{error} Training goes on, and the save is pushed again with a later one or at the end."
            )
            raise

    def _push_copy(self, copy: Path, message: str = "Last save of the training") -> None:
        """Pushes a copy of a checkpoint as the strategy says; once it is there, it and older ones are deleted."""
        places: dict[str, tuple[str, ...]] = {"": (TRAINING_ARGS_NAME, *_FOR_RESUMING)}
        if self.args.hub_strategy == HubStrategy.CHECKPOINT:
            places["last-checkpoint"] = (TRAINING_ARGS_NAME,)
        elif self.args.hub_strategy == HubStrategy.ALL_CHECKPOINTS:
            places[copy.name.removeprefix(_COPY)] = (TRAINING_ARGS_NAME,)
        for place, leave_out in places.items():
            push_folder(
                copy,
                str(self.hub_model_id),
                token=self.args.hub_token,
                revision=self.args.hub_revision,
                message=f"{message}, checkpoint" if place else message,
                path_in_repo=place,
                leave_out=leave_out,
            )
        copies = self._copies()
        for old in copies[: copies.index(copy) + 1]:
            shutil.rmtree(old, ignore_errors=True)

    def _copies(self) -> list[Path]:
        """Copies of checkpoints that are not on the Hub yet, the newest last."""
        if not (self.args.push_to_hub and self.is_world_process_zero()):
            return []
        found = Path(str(self.args.output_dir)).rglob(f"{_COPY}*")
        return sorted(found, key=lambda copy: int(copy.name.rpartition("-")[2]))

    def _remove_copies(self) -> None:
        for copy in self._copies():
            shutil.rmtree(copy, ignore_errors=True)


def _copy_of(checkpoint: Path) -> Path:
    """A copy beside a checkpoint, of hard links where the file system has them."""
    copy = checkpoint.with_name(f"{_COPY}{checkpoint.name}")
    shutil.rmtree(copy, ignore_errors=True)
    try:
        shutil.copytree(checkpoint, copy, copy_function=os.link)
    except (OSError, shutil.Error):
        shutil.copytree(checkpoint, copy, dirs_exist_ok=True)
    return copy
