"""The probes of the command `probe`: data in, a table, a sentence of advice and figures out."""

import logging
from argparse import Namespace
from pathlib import Path

from datasets import Dataset

from hf_layerfusion.data.arrow_tables import row_number
from hf_layerfusion.data.files import read_examples
from hf_layerfusion.data.labels import LabelSchema
from hf_layerfusion.errors import UserError
from hf_layerfusion.metric_registry import IGNORED
from hf_layerfusion.probing import LayerProbe, plot_gains, plot_layer_probe
from hf_layerfusion.probing.layer_probe import probe_all
from hf_layerfusion.probing.settings import check_probe
from hf_layerfusion.storage import new_folder, write_json


def run(arguments: Namespace) -> None:
    """Probe each encoder on each data set, print a table and a sentence of advice, and write both with a figure.

    Raises:
        UserError: Files that do not go together, an output folder that is not empty, cannot be written to or is being
            written by another process, or as `layer_probe`.
    """
    logging.getLogger("hf_layerfusion").setLevel(logging.INFO)
    if arguments.output_dir is None:
        _probe(arguments)
        return
    output = Path(arguments.output_dir)
    with new_folder(output, "--output_dir") as folder:
        probes = _probe(arguments)
        write_json(folder / "probe.json", [probe.to_dict() for probe in probes])
        plot_layer_probe(probes, folder / "layers.png")
        plot_gains(probes, folder / "gains.png")
    print(f"\nwritten into {output}: probe.json, layers.png, gains.png")


def _probe(arguments: Namespace) -> list[LayerProbe]:
    columns: list[str] = [arguments.text_column] + (
        [arguments.text_pair_column] if arguments.text_pair_column else []
    )
    if arguments.test_file and len(arguments.test_file) != len(arguments.train_file):
        raise UserError(
            f"--test_file must name a file for each of the {len(arguments.train_file)} training files, found "
            f"{len(arguments.test_file)}; name as many, or none"
        )
    settings = {
        "text_columns": columns,
        "metric": arguments.metric,
        "max_length": arguments.max_length,
        "batch_size": arguments.batch_size,
        "seed": arguments.seed,
    }
    check_probe(
        arguments.encoders,
        label_column=arguments.label_column,
        group_column=arguments.group_column,
        **settings,
    )
    if arguments.max_train_samples is not None and arguments.max_train_samples < 1:
        raise UserError(
            f"--max_train_samples must be 1 or more, found {arguments.max_train_samples}; leave it out to take all rows"
        )
    data = {}
    # Files of one name are told apart by their folders.
    by_file = len({Path(path).stem for path in arguments.train_file}) > 1
    for place, path in enumerate(arguments.train_file):
        name = Path(path).stem if by_file else Path(path).resolve().parent.name
        tested = arguments.test_file[place] if arguments.test_file else None
        data[name if name not in data else path] = _read(arguments, path, tested, columns)
    probes = probe_all(
        arguments.encoders,
        data,
        group_column=arguments.group_column,
        cache_dir=arguments.cache_dir,
        max_train_samples=arguments.max_train_samples,
        **settings,
    )
    for probe in probes:
        print(f"\n{_shown(probe)}")
    return probes


def _read(arguments: Namespace, train: str, test: str | None, columns: list[str]) -> dict[str, Dataset]:
    files = {"train": train} if test is None else {"train": train, "test": test}
    group = arguments.group_column
    splits = {
        name: read_examples(
            path,
            text_columns=[*columns, group] if name == "train" and group not in (None, *columns) else columns,
            label_column=arguments.label_column,
        )
        for name, path in files.items()
    }
    schema = LabelSchema.infer(splits["train"], where=train)
    if schema.problem_type == "multi_label_classification":
        raise UserError(
            f"{train}: a probe takes one class or value a text, found several; use another label column"
        )
    if schema.problem_type == "single_label_classification":
        for name, split in splits.items():
            for index, label in enumerate(split["label"]):
                if str(label) == str(IGNORED):
                    raise UserError(
                        f"{files[name]}: row {row_number(split, index)}: the label {IGNORED} stands for a missing one; "
                        "add the label or remove the row"
                    )
    return {name: schema.encode(split, files[name]) for name, split in splits.items()}


def _shown(probe: LayerProbe) -> str:
    header, rows = probe.table()
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in (header, *rows)
    ]
    head = f"{probe.data}, {Path(probe.encoder).name}: {probe.num_train:,} training rows, {probe.num_test:,} test rows"
    return "\n".join([head, *(line.rstrip() for line in lines), *probe.notes, probe.advice])
