"""The command `debug-data TRAIN …`, which looks for what is wrong in data before a model is trained on them."""

from argparse import ArgumentParser, Namespace
from typing import Any

from hf_layerfusion.cli.recipe_command import check_model_path, check_paths


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the files and their columns."""
    parser.add_argument("train_file", metavar="TRAIN", help="csv, tsv, json, jsonl or parquet")
    parser.add_argument("--validation_file", metavar="FILE", help="validation examples")
    parser.add_argument("--test_file", metavar="FILE", help="test examples, with or without labels")
    parser.add_argument("--text_column", default="text", help="column of the text (default: text)")
    parser.add_argument("--text_pair_column", help="column of the second text of a pair")
    parser.add_argument("--label_column", default="label", help="column of the label (default: label)")
    parser.add_argument(
        "--model_name_or_path", help="encoder whose tokens are counted, such as bert-base-uncased"
    )
    parser.add_argument(
        "--max_seq_length", type=int, help="token limit to compare with (default: what the encoder takes)"
    )


def run(arguments: Namespace) -> None:
    """Print how many rows and labels each file has, how long its texts are, and what may be wrong, with row numbers.

    Raises:
        UserError: a file that cannot be read at all.
    """
    check_paths(vars(arguments))
    import numpy as np

    from hf_layerfusion.data.arrow_tables import column_values
    from hf_layerfusion.data.diagnosis import diagnose, guess_language, label_counts
    from hf_layerfusion.data.files import read_examples

    columns = [arguments.text_column, *filter(None, [arguments.text_pair_column])]
    names = ("train", "validation", "test")
    paths = {name: path for name in names if (path := getattr(arguments, f"{name}_file"))}
    splits = {
        name: read_examples(
            path,
            text_columns=columns,
            label_column=arguments.label_column,
            label_required=name != "test",
            skip_incomplete=True,
        )
        for name, path in paths.items()
    }
    lengths, limit = _token_lengths(arguments, splits, columns)
    for name, split in splits.items():
        print(f"{name}: {len(split):,} rows of {paths[name]}")
        words = np.array([sum(len(text.split()) for text in row) for row in zip(
            *(column_values(split, column) for column in columns), strict=True
        )])  # fmt: skip
        measured = {"words": words} | ({} if lengths is None else {"tokens": np.array(lengths[name])})
        for unit, found in measured.items():
            low, middle, high = np.percentile(found, (50, 95, 99)).astype(int)
            print(f"  {unit} a text: half have at most {low}, 95 % {middle}, 99 % {high}, all {found.max()}")
        if "label" in split.column_names:
            counts = label_counts(split)
            shown = ", ".join(f"{label} {count:,}" for label, count in list(counts.items())[:10])
            more = f", … ({len(counts)} in all)" if len(counts) > 10 else ""
            print(f"  labels: {shown}{more}")
        language = guess_language(column_values(split, columns[0])[:1000])
        print(f"  language: {language or 'none of en, de, fr, es, it, pt, nl'} (a guess)")
    findings = diagnose(splits, columns, lengths, limit)
    print(f"\n{len(findings) or 'no'} {'finding' if len(findings) == 1 else 'findings'}")
    for finding in findings:
        print(f"  {finding.split:12}{finding.line}")


def _token_lengths(
    arguments: Namespace, splits: dict[str, Any], columns: list[str]
) -> tuple[Any, int | None]:
    if arguments.model_name_or_path is None:
        return None, None
    check_model_path("--model_name_or_path", arguments.model_name_or_path)
    from hf_layerfusion.data.arrow_tables import column_values
    from hf_layerfusion.recipes.model_setup import load_tokenizer
    from hf_layerfusion.recipes.recipe_arguments import CheckpointArguments

    tokenizer = load_tokenizer(CheckpointArguments(model_name_or_path=arguments.model_name_or_path))
    lengths = {
        name: [
            len(ids)
            for ids in tokenizer(*(column_values(split, column) for column in columns), verbose=False)[
                "input_ids"
            ]
        ]
        for name, split in splits.items()
    }
    return lengths, arguments.max_seq_length or tokenizer.model_max_length
