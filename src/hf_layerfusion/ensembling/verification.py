"""Compares saved models, adapters, checkpoints and ensembles with the checksums in their manifests."""

from pathlib import Path

from hf_layerfusion.ensembling.ensemble import Ensemble
from hf_layerfusion.ensembling.manifest import FILE_NAME
from hf_layerfusion.errors import UserError
from hf_layerfusion.hub.manifest import MODEL_MANIFEST, Verified, verify_folder


def verify_saved(folder: str | Path) -> Verified:
    """Compare the files of a saved model, adapter, checkpoint or ensemble with the sizes and checksums that were
    recorded when they were saved.

    Of an ensemble the members are compared too, to any depth, with the checksums in `ensemble.json`; those on the Hub
    are downloaded where they are not yet. The checksums find damage, not ill will: who can change a file can change its
    manifest.

    Args:
        folder: a local folder; for a repository of the Hub, what `snapshot_download` returns.

    Returns:
        How many files are as they were saved, and which of the model's files no manifest lists.

    Raises:
        UserError: there is no manifest, or a file is missing, has changed or was added since.

    Example:
        ```python
        model.save_pretrained("outputs/model")
        verify_saved("outputs/model")
        ```
    """
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: must be a folder, found none; check the path")
    verified = verify_folder(folder)
    if not (Path(folder) / FILE_NAME).is_file():
        return verified
    # Opening it compares each member with its checksum in `ensemble.json`.
    places = [seat.member.folder for seat in Ensemble.from_pretrained(folder).seats]
    members = [
        verify_saved(place) for place in places if place is not None and (place / MODEL_MANIFEST).is_file()
    ]
    return Verified(verified.files + sum(member.files for member in members), verified.not_listed)
