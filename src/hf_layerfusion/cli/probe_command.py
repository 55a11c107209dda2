"""The command `probe ENCODER … --train_file FILE …`, which compares an encoder's layers on a task."""

from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the encoders, the data and what is written."""
    parser.add_argument(
        "encoders", nargs="+", metavar="ENCODER", help="folder or Hub id of a pretrained encoder"
    )
    parser.add_argument(
        "--train_file",
        nargs="+",
        required=True,
        metavar="FILE",
        help="csv, tsv, json, jsonl or parquet; one a data set",
    )
    parser.add_argument(
        "--test_file",
        nargs="+",
        default=[],
        metavar="FILE",
        help="one for each training file; without, the training rows are predicted in five folds",
    )
    parser.add_argument("--text_column", default="text", help="column of the texts (default: text)")
    parser.add_argument("--text_pair_column", help="column of the second text of pairs")
    parser.add_argument("--label_column", default="label", help="column of the labels (default: label)")
    parser.add_argument(
        "--group_column",
        help="column of strings whose equal values stay in one fold, where there is no test file",
    )
    parser.add_argument(
        "--metric",
        help="accuracy or macro_f1 for classes (default: accuracy), pearson for values (the default there)",
    )
    parser.add_argument(
        "--max_train_samples", type=int, help="draw this many rows of each training file (default: all)"
    )
    parser.add_argument(
        "--max_length",
        type=int,
        help="tokens of a text that are read, of a pair read jointly of both (default: what the encoder takes, at most "
        "512)",
    )
    parser.add_argument("--batch_size", type=int, default=32, help="texts a batch (default: 32)")
    parser.add_argument(
        "--cache_dir",
        help="folder that keeps the encoder's states for the next call (default: hf_layerfusion/states beside the "
        "Hub's cache)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of folds and bootstrap (default: 0)")
    parser.add_argument("--output_dir", help="new folder for probe.json, layers.png and gains.png")


def run(arguments: Namespace) -> None:
    """Probe, as `probe_run`."""
    from hf_layerfusion.cli import probe_run

    probe_run.run(arguments)
