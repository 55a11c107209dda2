"""Verification of saved models, runs, adapters, checkpoints, exports and ensembles against the checksums in their
manifests."""

from pathlib import Path

from hf_layerfusion.ensembling.ensemble import Ensemble
from hf_layerfusion.ensembling.ensemble_manifest import FILE_NAME
from hf_layerfusion.errors import UserError
from hf_layerfusion.hub.manifest import (
    MODEL_MANIFEST,
    Verified,
    folders_below,
    holds_model,
    listed_paths,
    model_files,
    models_below,
    verify_folder,
)
from hf_layerfusion.run_layout import SETTINGS_FILE, find


def verify_saved(folder: str | Path) -> Verified:
    """Compare the files of a saved model, run, adapter, checkpoint, ONNX export or ensemble with the checksums and
    sizes recorded when they were saved.

    Folders below that have a manifest of their own are compared too, at any depth: the best model of each task,
    checkpoints, the runs of several seeds or folds, an ensemble's soup. So are an ensemble's members, against the
    checksums in `ensemble.json`; members on the Hub are downloaded if necessary. Checksums reveal damage, not
    tampering: whoever can change a file can change its manifest.

    Args:
        folder: a local folder; for a Hub repository, the folder that `snapshot_download` returns.

    Returns:
        The number of unchanged files, and the names of the model's files that no manifest lists.

    Raises:
        UserError: There is no manifest, or a file is missing, has changed or was added since.

    Example:
        ```python
        model.save_pretrained("outputs/model")
        verify_saved("outputs/model")
        ```
    """
    top = Path(folder).resolve()
    if not top.is_dir():
        raise UserError(f"{folder}: must be a folder, found none; check the path")
    below = folders_below(top)
    # A run of several seeds or folds has its models in folders below, none at its top.
    is_run = find(top, SETTINGS_FILE).is_file() and bool(below) and not holds_model(top)
    waiting = below if is_run else [top, *below]
    verified: dict[Path, Verified] = {}
    checked: set[Path] = set()
    for place in waiting:  # grows as members are found
        if place in verified:
            continue
        verified[place] = verify_folder(place)
        checked |= listed_paths(place)
        if (place / FILE_NAME).is_file():
            for member in members_of(place):
                checked.update(model_files(member))
                if (member / MODEL_MANIFEST).is_file():
                    waiting += [member, *folders_below(member)]
    unchecked = set(models_below(top)) - checked
    for place, found in verified.items():
        if place.is_relative_to(top):
            unchecked.update(place / name for name in found.not_listed)
    names = sorted(path.relative_to(top).as_posix() for path in unchecked)
    return Verified(sum(found.files for found in verified.values()), names)


def members_of(ensemble: Path) -> list[Path]:
    """Return the resolved folders of an ensemble's members.

    Raises:
        UserError: A member is missing, or differs from its checksum in `ensemble.json`.
    """
    folders = [member.predictor.folder for member in Ensemble.from_pretrained(ensemble).members]
    return [folder.resolve() for folder in folders if folder is not None]
