"""`--push_to_hub` of the scripts: the repository is opened before the run, the folder pushed when it is complete."""

import logging
from pathlib import Path
from typing import Protocol

from hf_layerfusion.hub.publish import PushError, files_to_push, open_repository, publish

logger = logging.getLogger(__name__)


class HubArguments(Protocol):
    """Hub options of `transformers.TrainingArguments`."""

    output_dir: str | None
    push_to_hub: bool
    hub_model_id: str | None
    hub_token: str | None
    hub_private_repo: bool | None
    hub_revision: str | None


def open_hub(arguments: HubArguments, several: bool = False) -> None:
    """Open the repository of `--push_to_hub`, creating it if necessary, and set `hub_model_id` to its full name.

    Args:
        arguments: Hub options; without `hub_model_id`, the repository has the name of `output_dir`.
        several: whether the run produces several models.

    Raises:
        PushError: The repository cannot be opened, or there are several models.
    """
    if not arguments.push_to_hub:
        return
    if several:
        raise PushError(
            "--push_to_hub pushes one model, found a run of several (--seeds, --folds); leave it out, and push the "
            "folder of one of them as docs/hub.md shows."
        )
    arguments.hub_model_id = open_repository(
        arguments.hub_model_id or Path(str(arguments.output_dir)).resolve().name,
        token=arguments.hub_token,
        private=arguments.hub_private_repo,
        revision=arguments.hub_revision,
    )


def planned_push(arguments: HubArguments) -> dict[str, list[str]]:
    """Return the files that `--push_to_hub` would push now under `pushed`, for a dry run; empty without
    `--push_to_hub`.

    The Hub is not contacted.
    """
    if not arguments.push_to_hub:
        return {}
    folder = Path(str(arguments.output_dir))
    return {"pushed": files_to_push(folder) if folder.is_dir() else []}


def push_outputs(folder: Path, arguments: HubArguments) -> None:
    """Push a finished run's folder if `--push_to_hub` is set.

    Raises:
        PushError: The push failed.
    """
    if not arguments.push_to_hub:
        return
    try:
        commit = publish(
            folder,
            str(arguments.hub_model_id),
            token=arguments.hub_token,
            private=arguments.hub_private_repo,
            revision=arguments.hub_revision,
        )
    except PushError as error:
        raise PushError(
            f"{error} The run is complete in {folder}; the same command pushes it again."
        ) from error
    logger.info("pushed: %s", commit.commit_url)
