"""The command `verify FOLDER …`, which compares saved models with the checksums in their manifests."""

from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the folders to compare."""
    parser.add_argument(
        "folders",
        nargs="+",
        metavar="FOLDER",
        help="a saved model, run, adapter, checkpoint, ONNX export or ensemble; folders below are compared too",
    )


def run(arguments: Namespace) -> None:
    """Compare each folder with its manifest, and print what was found.

    Raises:
        UserError: the first folder whose files are not those that were saved.
    """
    from hf_layerfusion.ensembling.verification import verify_saved

    for folder in arguments.folders:
        found = verify_saved(folder)
        print(f"{folder}: {found.files} files are as they were saved")
        if found.not_listed:
            print(f"  not in the manifest, so not checked: {', '.join(found.not_listed)}")
