"""`hf-layerfusion COMMAND …`, or `python -m hf_layerfusion COMMAND …`."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple


class Command(NamedTuple):
    """A command.

    Attributes:
        module: has a `RecipeCommand` called `RECIPE`, or `add_arguments(parser)` and `run(arguments)`; imported only
            when the command is called.
        summary: what it does, for `--help`.
    """

    module: str
    summary: str


COMMANDS = {
    "train": Command(
        "hf_layerfusion.cli.train_command",
        "train a model for any text classification, regression or multi-label data",
    ),
    "sample": Command(
        "hf_layerfusion.cli.sample_command", "write a small data set and the configuration of a run on it"
    ),
    "train-tweets": Command("hf_layerfusion.cli.train_tweets_command", "train on tweets by GRUBERT's recipe"),
    "train-absa": Command(
        "hf_layerfusion.cli.train_absa_command", "train on the sentiment of aspects by BERT-LSTM's recipe"
    ),
    "train-nli": Command(
        "hf_layerfusion.cli.train_nli_command", "train on premises and hypotheses by BERT-LSTM's recipe"
    ),
    "train-multitask": Command(
        "hf_layerfusion.cli.train_multitask_command",
        "train one model for several tasks by SerBERTus' recipe",
    ),
    "pretrain": Command(
        "hf_layerfusion.cli.pretrain_command", "train an encoder further on texts without labels"
    ),
    "search": Command("hf_layerfusion.cli.search_command", "search the best settings, and train with them"),
    "search-multitask": Command(
        "hf_layerfusion.cli.search_multitask_command", "search the best settings for several tasks"
    ),
    "predict": Command(
        "hf_layerfusion.cli.predict_command", "write a trained model's answers to a file of texts"
    ),
    "evaluate": Command("hf_layerfusion.cli.evaluate_command", "measure a trained model on labelled texts"),
    "compare": Command(
        "hf_layerfusion.cli.compare_command", "test whether runs differ on the texts that they were tested on"
    ),
    "layers": Command(
        "hf_layerfusion.cli.layers_command", "show which layers of its encoder a trained model uses"
    ),
    "report": Command(
        "hf_layerfusion.cli.report_command", "write what runs measured as one HTML page, compared if several"
    ),
    "app": Command(
        "hf_layerfusion.cli.app_command", "serve a demo of a trained model, or write it as a Space of the Hub"
    ),
    "debug-data": Command(
        "hf_layerfusion.cli.debug_data_command",
        "look for what is wrong in data files before training on them",
    ),
    "ensemble": Command(
        "hf_layerfusion.cli.ensemble_command", "combine trained models, and write the best ensemble"
    ),
    "export": Command("hf_layerfusion.cli.export_command", "export a trained model to ONNX"),
    "import-embeddings": Command(
        "hf_layerfusion.cli.import_embeddings_command",
        "convert word embeddings (GloVe, word2vec, fastText, ELMo, Flair) to an encoder's folder",
    ),
    "probe": Command(
        "hf_layerfusion.cli.probe_command",
        "fit linear probes on each layer of frozen encoders and on all layers, and advise whether to fuse them",
    ),
    "verify": Command(
        "hf_layerfusion.cli.verify_command",
        "compare the files of a saved model, adapter, checkpoint or ensemble with the checksums in its manifest",
    ),
    "env": Command("hf_layerfusion.cli.env_command", "print versions and hardware, for a report of a fault"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the command line names; a `UserError` becomes one line on standard error and exit code 2.

    Args:
        arguments: of the command line, by default those of the process.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        rows = "\n".join(f"  {name:19}{command.summary}" for name, command in COMMANDS.items())
        print(f"usage: hf-layerfusion COMMAND ...\n\ncommands:\n{rows}\n")
        print("hf-layerfusion COMMAND --help shows a command's own options.")
        sys.exit(0 if arguments else 2)
    name, *own = arguments
    script = import_module("hf_layerfusion.cli.script")
    with script.one_line_errors():
        if name == "--version":
            print(import_module("hf_layerfusion").__version__)
            return
        if name not in COMMANDS:
            errors = import_module("hf_layerfusion.errors")
            way_out = errors.nearest(name, COMMANDS, "see hf-layerfusion --help")
            raise errors.UserError(f"hf-layerfusion has no command {name!r}; {way_out}")
        module: Any = import_module(COMMANDS[name].module)
        recipe = vars(module).get("RECIPE")
        if recipe is not None:
            recipe.main(own, before=script.set_up_logging)
            return
        parser = script.CommandParser(prog=f"hf-layerfusion {name}", description=COMMANDS[name].summary)
        module.add_arguments(parser)
        options: argparse.Namespace = parser.parse_args(own)
        script.refuse_nul(options)
        script.set_up_logging()
        module.run(options)


if __name__ == "__main__":
    main()
