"""`hf-layerfusion COMMAND …`, or `python -m hf_layerfusion COMMAND …`: what is done without a script."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple


class Command(NamedTuple):
    """A command.

    Attributes:
        module: has `add_arguments(parser)` and `run(arguments)`; imported only when the command is called.
        summary: what it does, for `--help`.
    """

    module: str
    summary: str


COMMANDS = {
    "import-embeddings": Command(
        "hf_layerfusion.cli.import_embeddings_command",
        "convert word embeddings (GloVe, word2vec, fastText) to an encoder's folder",
    ),
    "probe": Command(
        "hf_layerfusion.cli.probe_command",
        "fit linear probes on each layer of frozen encoders and on all layers, and advise whether to fuse them",
    ),
    "verify": Command(
        "hf_layerfusion.cli.verify_command",
        "compare the files of a saved model, adapter, checkpoint or ensemble with the checksums in its manifest",
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command that the command line names; a `UserError` becomes one line on standard error and exit code 2.

    Args:
        arguments: of the command line, by default those of the process.
    """
    rows = "\n".join(f"  {name:19}{command.summary}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="hf-layerfusion",
        description=f"commands:\n{rows}",
        epilog="`hf-layerfusion COMMAND --help` shows a command's own arguments.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those above")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the command")
    called = parser.parse_args(arguments)
    command = COMMANDS[called.command]
    module = import_module(command.module)
    own = argparse.ArgumentParser(prog=f"{parser.prog} {called.command}", description=command.summary)
    module.add_arguments(own)
    options = own.parse_args(called.arguments)
    script = import_module("hf_layerfusion.cli.script")

    def run() -> None:
        script.refuse_nul(options)
        module.run(options)

    script.run_script(run)


if __name__ == "__main__":
    main(sys.argv[1:])
