"""Checkpoints that can be trusted: a manifest of checksums, written last.

The stock Trainer writes a checkpoint file by file, so a killed process leaves a folder that looks like one. Here
a checkpoint is one only if its manifest is there and each file still has the content that the manifest records.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.constants import FSDP_MODEL_NAME
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from hf_layerfusion.errors import StorageError, UserError, one_line
from hf_layerfusion.hub import manifest as manifests
from hf_layerfusion.hub.manifest import CHECKPOINT_MANIFEST
from hf_layerfusion.hub.paths import inside
from hf_layerfusion.storage import (
    PARTIAL,
    remove,
    sync_folder,
    sync_tree,
    writable,
    write_text,
)
from hf_layerfusion.training.adapters import adapter_weights
from hf_layerfusion.training.global_batch import ARGUMENTS_NAME, check_global_batch
from hf_layerfusion.training.launch_checks import asks_for_fsdp
from hf_layerfusion.training.own_folders import MARK, make_own, remove_own
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

logger = logging.get_logger(__name__)

MANIFEST_NAME = CHECKPOINT_MANIFEST
# Resuming does not read the pickled arguments, and a checkpoint comes back from the Hub without them.
_NOT_LISTED = (MANIFEST_NAME, TRAINING_ARGS_NAME, MARK)
_ONLY_MODEL = (
    "was saved with save_only_model=True and holds no state of the optimizer and the random generators, so that "
    "training cannot go on from it"
)


def write_manifest(folder: str | Path) -> Path:
    """Write `checkpoint_manifest.json` with size and sha256 of every file below `folder` except `training_args.bin`.

    Call it after everything else is written. Every file is flushed to the disk first, and the manifest appears whole or
    not at all.

    Returns:
        Its path.
    """
    folder = Path(folder)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in _NOT_LISTED]
    sync_tree(folder)  # what the manifest vouches for is on the disk before it
    manifest = manifests.write_manifest(folder / MANIFEST_NAME, files)
    sync_folder(folder.parent)
    return manifest


class CheckpointSaver:
    """Saves checkpoints that are whole or not there, and arguments that are readable and hold no token.

    Args:
        args: The run's options.
        wait: Returns when all processes have called it.
    """

    def __init__(self, args: LayerFusionTrainingArguments, wait: Callable[[], None]) -> None:
        self.args, self.wait = args, wait
        self._as_given: dict[str, Any] = {}  # options that are set otherwise while a checkpoint is saved

    @contextmanager
    def saving(self, folder: Path) -> Iterator[None]:
        """Save a checkpoint in the block; its manifest is written after it.

        In the block, `save_total_limit` and `push_to_hub` are off: the stock Trainer would delete older checkpoints,
        and push, before there is a manifest.

        Raises:
            StorageError: The checkpoint could not be written; what there was of it is deleted.
        """
        args = self.args
        if args.should_save:
            make_room(folder)
        self.wait()
        self._as_given = {"save_total_limit": args.save_total_limit, "push_to_hub": args.push_to_hub}
        args.save_total_limit, args.push_to_hub = None, False
        try:
            yield
        # What safetensors and torch raise for a full disk.
        except (OSError, RuntimeError, SafetensorError, UserError) as error:
            remove_own(folder)
            raise StorageError(
                f"checkpoint {folder} could not be written: {one_line(error)}; make room "
                "(save_total_limit bounds the number of checkpoints) and resume from the one before"
            ) from error
        finally:
            for name, value in self._as_given.items():
                setattr(args, name, value)
            self._as_given = {}
        self.wait()
        if args.should_save:
            with writable(f"checkpoint {folder}"):
                finish(folder)

    @contextmanager
    def saving_model(self, folder: Path, model: Any, tokenizer: Any) -> Iterator[None]:
        """Save a model in the block; its arguments and its manifest of checksums are written after it.

        Raises:
            StorageError: It could not be written.
        """
        if getattr(model, "_weight_conversions", None):
            # A model from an old checkpoint (`LayerNorm.gamma`) would be saved under the old names. The Trainer, which
            # loads by name, would then leave these weights out.
            model._weight_conversions = None
        # A fast tokenizer saves how it was called last, which depends on what was found in a cache.
        if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
            backend.no_truncation()
            backend.no_padding()
        try:
            yield
            if self.args.should_save:
                self.save_arguments(folder)
                manifests.write_model_manifest(folder)
        # What safetensors and torch raise for a full disk.
        except (OSError, SafetensorError, RuntimeError) as error:
            raise StorageError(
                f"{folder}: the model could not be written: {one_line(error)}; make room, or check the permissions, "
                "and go on from the last checkpoint"
            ) from error

    def rotate(self, run_dir: Path, best: str | None) -> None:
        """Delete old checkpoints beyond `save_total_limit`, and wait: other processes may be about to load one."""
        if self.args.should_save:
            rotate(run_dir, self.args.save_total_limit, best)
        self.wait()

    def save_arguments(self, folder: Path) -> None:
        """Write the run's options, as they were given, into a folder."""
        args = copy.copy(self.args)
        for name, value in self._as_given.items():
            setattr(args, name, value)
        torch.save(args, folder / TRAINING_ARGS_NAME)
        write_text(folder / ARGUMENTS_NAME, args.to_json_string() + "\n")


def make_room(folder: Path) -> None:
    """Prepare the folder of a checkpoint.

    An earlier checkpoint of that name is deleted: the files that its manifest lists, or everything if saving it was
    interrupted. Files of others stay.
    """
    remove_own(folder)
    if folder.exists() and (folder / MANIFEST_NAME).exists():
        for name in manifests.listed_files(folder / MANIFEST_NAME):
            inside(folder, name, MANIFEST_NAME).unlink(missing_ok=True)
        (folder / MANIFEST_NAME).unlink()
    if not folder.exists():
        make_own(folder)


def finish(folder: Path) -> None:
    """Write the manifest of a checkpoint that is complete otherwise."""
    (folder / MARK).unlink(missing_ok=True)
    write_manifest(folder)


def rotate(run_dir: Path, limit: int | None, best: str | None) -> None:
    """Delete the oldest checkpoints of a run beyond `limit`, but neither the newest nor the best one.

    Each is renamed to a temporary name first: a kill while files are deleted leaves no half of a checkpoint, and what
    is left is deleted here or by `storage.remove_leftovers`.

    Args:
        run_dir: The folder of the run.
        limit: The number of checkpoints to keep; None keeps all.
        best: The best checkpoint so far.
    """
    for left in run_dir.glob(f".{PREFIX_CHECKPOINT_DIR}-*{PARTIAL}"):
        remove(left)
    if limit is None or limit <= 0:
        return
    found = map(Path, sort_checkpoints(str(run_dir), use_mtime=True))
    checkpoints = [path for path in found if path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-").isdecimal()]
    if not checkpoints:
        return
    protected = {checkpoints[-1], Path(best or checkpoints[-1])}
    others = [path for path in checkpoints if path not in protected]
    for path in others[: max(0, len(checkpoints) - max(limit, len(protected)))]:
        deleted = path.with_name(f".{path.name}{PARTIAL}")
        path.rename(deleted)
        remove(deleted)


def verify_checkpoint(folder: str | Path) -> None:
    """Check that `folder` holds every file of its manifest, unchanged.

    Raises:
        UserError: names the folder, the file and what is wrong with it.
    """
    reason = _damage(Path(folder))
    if reason is not None:
        raise UserError(
            f"checkpoint {folder}: {reason}; resume from an older checkpoint, "
            "or pass resume_from_checkpoint=True to take the newest one that is intact"
        )


def verify_resumable(folder: str | Path) -> None:
    """Check that training can go on from `folder` as if it had not been interrupted.

    Raises:
        UserError: as `verify_checkpoint`, and for a checkpoint of `save_only_model=True`, which has the weights but
            neither the optimizer's nor the random generators' states: training from it would end in other weights.
    """
    verify_checkpoint(folder)
    if not _has_training_state(Path(folder)):
        raise UserError(
            f"checkpoint {folder}: {_ONLY_MODEL}; train anew without save_only_model, or start another run from these "
            "weights by naming the folder as the model"
        )


def checkpoint_to_resume(
    asked: str | bool | None,
    args: LayerFusionTrainingArguments,
    model: nn.Module,
    loss_depends_on_device_batch: bool = False,
) -> str | None:
    """Return the checkpoint that training resumes from, or None if it starts anew.

    Args:
        asked: True for the newest intact checkpoint of `output_dir`, or a folder.
        args: The run's options.
        model: The model that will be trained.
        loss_depends_on_device_batch: See `check_global_batch`.

    Raises:
        UserError: There is no intact checkpoint; the named one is damaged, holds the model alone, or fits neither the
            model nor the global batch.
    """
    if not asked:
        return None
    if asked is True:
        checkpoint = str(newest_valid_checkpoint(str(args.output_dir)) or "")
        if not checkpoint:
            raise UserError(
                f"resume_from_checkpoint: {args.output_dir} must hold a checkpoint that is intact and has "
                "the optimizer's state, found none; start the run anew"
            )
    else:
        checkpoint = str(asked)
        verify_resumable(checkpoint)
    _check_engine(Path(checkpoint), args)
    check_global_batch(Path(checkpoint), args, loss_depends_on_device_batch)
    if isinstance(model, PeftModel):
        adapter_weights(model, checkpoint)
    else:
        check_fits(model, checkpoint)
    return checkpoint


def _check_engine(checkpoint: Path, args: LayerFusionTrainingArguments) -> None:
    """Check that a run shards its model exactly if the one that saved its checkpoint did.

    Raises:
        UserError: The optimizer's state is in another form.
    """
    was_sharded, is_sharded = any(checkpoint.glob(f"{FSDP_MODEL_NAME}*")), asks_for_fsdp(args)
    if was_sharded != is_sharded:
        before, now = ("FSDP" if each else "no FSDP" for each in (was_sharded, is_sharded))
        raise UserError(
            f"resume_from_checkpoint: {checkpoint} was saved with {before}, found {now}; resume as it was saved, with "
            "any number of processes, or start another run from these weights by naming the folder as the model"
        )


def check_fits(model: nn.Module, folder: str | Path) -> None:
    """Check that the weights of a checkpoint are those of a model, by their names.

    Raises:
        UserError: Names weights that are missing or not expected. The stock Trainer warns of them.
    """
    saved = _weight_names(Path(folder))
    if saved is None:
        return
    expected = model.state_dict().keys()
    not_saved = getattr(model, "_keys_to_ignore_on_save", None) or ()
    absent = {*not_saved, *getattr(model, "all_tied_weights_keys", ())}
    missing = [name for name in expected if name not in saved and name not in absent]
    unexpected = [name for name in sorted(saved) if name not in expected]
    if missing or unexpected:
        raise UserError(
            f"checkpoint does not fit {type(model).__name__}: {len(missing)} weights are missing, such as "
            f"{missing[:2]}, and {len(unexpected)} not expected, such as {unexpected[:2]}; "
            "resume with the model that the run began with"
        )


def _weight_names(folder: Path) -> set[str] | None:
    """Return the names of the weights that a checkpoint holds, or None where they are in another format."""
    if (folder / SAFE_WEIGHTS_INDEX_NAME).exists():
        return set(json.loads((folder / SAFE_WEIGHTS_INDEX_NAME).read_text(encoding="utf-8"))["weight_map"])
    if not (folder / SAFE_WEIGHTS_NAME).exists():
        return None
    with safe_open(folder / SAFE_WEIGHTS_NAME, framework="pt") as file:
        return set(file.keys())


def newest_valid_checkpoint(output_dir: str | Path) -> Path | None:
    """Return the newest `checkpoint-<step>` folder of `output_dir` that training can go on from, or None.

    Newer ones that are incomplete, corrupt, or hold the model alone are passed over, each with a warning that says why.
    """
    steps = {
        int(digits): folder
        for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if folder.is_dir() and (digits := folder.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")).isdecimal()
    }
    for step in sorted(steps, reverse=True):
        reason = _damage(steps[step])
        if reason is None and not _has_training_state(steps[step]):
            reason = _ONLY_MODEL
        if reason is None:
            return steps[step]
        logger.warning(f"Passing over checkpoint {steps[step]}: {reason}")
    return None


def _has_training_state(folder: Path) -> bool:
    """Return whether a checkpoint holds the random generators' states.

    It then holds the optimizer's too, whatever the names that DeepSpeed or FSDP give to its files.
    """
    return any(folder.glob("rng_state*.pth"))


def _damage(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, in words, or None."""
    if not folder.is_dir():
        return "there is no such folder"
    if not (folder / MANIFEST_NAME).exists():
        return f"{MANIFEST_NAME} is missing, so saving was interrupted"
    return manifests.damage(folder / MANIFEST_NAME)
