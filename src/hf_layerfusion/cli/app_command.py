"""The command `app MODEL`, which serves a demo of a trained model, or writes it as a Space of the Hub."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from hf_layerfusion.cli.recipe_command import check_model_path
from hf_layerfusion.errors import UserError


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the model and where the demo goes."""
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of a trained model or an ensemble")
    parser.add_argument(
        "--port", type=int, help="port of the page (default: the first free one from 7860 on)"
    )
    parser.add_argument(
        "--space", metavar="FOLDER", help="write the new folder of a Space of the Hub, and serve nothing"
    )
    parser.add_argument("--use_cpu", action="store_true", help="run on the CPU where there is a GPU too")
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="run code that lies beside the model; read it first"
    )


def run(arguments: Namespace) -> None:
    """Serve the demo until the process is ended, or write the Space.

    Raises:
        UserError: Gradio is not installed, or whatever else the user can mend.
    """
    check_model_path("MODEL", arguments.model)
    if arguments.port is not None and not 0 < arguments.port < 65_536:
        raise UserError(f"--port must be from 1 to 65535, found {arguments.port}")
    if arguments.space is not None:
        if arguments.trust_remote_code:
            raise UserError(
                "--trust_remote_code is for a demo on this machine and excludes --space; leave it out, and set it in "
                "the Space's app.py where its model needs it"
            )
        from hf_layerfusion.app.space import write_space

        write_space(arguments.model, Path(arguments.space))
        print(f"{arguments.space}: send it by  hf upload OWNER/NAME {arguments.space} --repo-type space")
        return
    from hf_layerfusion.app.page import gradio, launch

    gradio()  # before the model is loaded
    launch(arguments.model, arguments.port, arguments.use_cpu, arguments.trust_remote_code)
