"""The command `import-embeddings --FORMAT FILE … --output_dir FOLDER`, which converts word embeddings to an encoder."""

from argparse import Action, ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from hf_layerfusion.embeddings.importing import UNKNOWN_VECTORS, ImportOptions, convert
from hf_layerfusion.embeddings.registry import SOURCES
from hf_layerfusion.embeddings.word_tokenizers import LOOKUPS, TOKENIZATIONS
from hf_layerfusion.embeddings.word_vectors import BAD_ROWS, ReadOptions


class _AppendSource(Action):
    """Appends what an option names to one list of all sources, in the order of the command line."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option: Any = None) -> None:
        sources = [*namespace.sources, (self.dest, [Path(value) for value in values])]
        namespace.sources = sources


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the formats and what is made of them."""
    parser.set_defaults(sources=[])
    for name, source in SOURCES.items():
        parser.add_argument(
            f"--{name}",
            nargs=len(source.files),
            metavar=source.files,
            action=_AppendSource,
            help=source.summary,
        )
    parser.add_argument("--output_dir", type=Path, required=True, metavar="FOLDER", help="the new folder")
    parser.add_argument(
        "--tokenization",
        default="whitespace",
        metavar="|".join(TOKENIZATIONS),
        help="how texts are split into words: at white space, or with punctuation and clitics apart",
    )
    parser.add_argument(
        "--lookup",
        default="exact",
        metavar="|".join(LOOKUPS),
        help="look words up as they are, or also in lower case and with digits as # and 0",
    )
    parser.add_argument(
        "--unknown", default="zero", metavar="|".join(UNKNOWN_VECTORS), help="the vector of unknown words"
    )
    parser.add_argument(
        "--train_embeddings",
        nargs="*",
        metavar="FORMAT",
        help="models around the encoder train it, of a stack the members of these formats; by default it is frozen",
    )
    parser.add_argument(
        "--max_words", type=int, metavar="N", help="keep the first N words, the most frequent ones"
    )
    parser.add_argument(
        "--bad_rows",
        default="error",
        metavar="|".join(BAD_ROWS),
        help="end at a row that cannot be used (repeated words, other widths, no UTF-8, NaN), or skip such rows",
    )


def run(arguments: Namespace) -> None:
    """Convert the embeddings, and print where they are.

    Raises:
        UserError: as `import_embeddings`.
    """
    read = ReadOptions(arguments.max_words, arguments.bad_rows)
    trained = arguments.train_embeddings
    options = ImportOptions(
        arguments.tokenization,
        arguments.lookup,
        arguments.unknown,
        trained if trained else trained is not None,
        read,
    )
    folder = convert(arguments.sources, arguments.output_dir, options)
    print(f"{folder}: an encoder, to be named as --model_name_or_path or opened by AutoModel")
