"""The command `predict MODEL FILE --output_dir FOLDER`, which writes a trained model's answers to a file of texts."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from hf_layerfusion.cli.recipe_command import check_model_path, check_paths
from hf_layerfusion.errors import UserError


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the model, the texts and what is written."""
    add_data_arguments(parser)
    parser.add_argument(
        "--output_dir",
        required=True,
        help="new folder for predictions.csv, logits.csv and all_results.json; of several tasks, predictions/TASK.csv",
    )


def add_data_arguments(parser: ArgumentParser) -> None:
    """Declare the model and the texts that it is asked."""
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of a trained model")
    parser.add_argument("file", metavar="FILE", help="texts: csv, tsv, json, jsonl or parquet")
    parser.add_argument(
        "--task",
        nargs="+",
        metavar="TASK",
        help="tasks of a model of several (default: all that take such texts; labels are read for one task alone)",
    )
    of_training = "(default: as in training)"
    parser.add_argument("--text_column", help=f"column of the text {of_training}")
    parser.add_argument("--text_pair_column", help=f"column of the second text of a pair {of_training}")
    parser.add_argument("--label_column", help=f"column of the label, where there is one {of_training}")
    parser.add_argument("--id_column", help="column of the ids (default: the texts are numbered)")
    parser.add_argument(
        "--class_scores", action="store_true", help="write one column of scores for each class too"
    )
    parser.add_argument(
        "--prediction_format",
        default="standard",
        help="standard; spreadsheet, in which no text is run as a formula; or kaggle (default: standard)",
    )
    parser.add_argument("--batch_size", type=int, default=64, help="texts a step (default: 64)")
    parser.add_argument("--max_predict_samples", type=int, help="answer the first that many texts")
    parser.add_argument("--use_cpu", action="store_true", help="run on the CPU where there is a GPU too")
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="run code that lies beside the model; read it first"
    )


def run(arguments: Namespace) -> None:
    """Predict the texts, prepared as the model's training texts were, and print what was measured and written.

    Raises:
        UserError: for whatever the user can mend.
    """
    from hf_layerfusion.cli.script import print_outputs

    results = predicted(arguments, arguments.output_dir)
    print_outputs(results, Path(arguments.output_dir))


def predicted(arguments: Namespace, output_dir: str) -> dict[str, Any]:
    """Predict the texts into a folder, and return what was measured where they have labels.

    Raises:
        UserError: for whatever the user can mend.
    """
    check_model_path("MODEL", arguments.model)
    check_paths({"test_file": arguments.file}, {"test_file": "FILE"})
    if (Path(arguments.model) / "ensemble.json").is_file():
        raise UserError(
            f"MODEL {arguments.model}: must be one model, found an ensemble; ask it in Python, by "
            f"Ensemble.from_pretrained({arguments.model!r})(texts), or predict with its members"
        )
    from transformers import AutoConfig

    from hf_layerfusion.errors import LOADING_ERRORS
    from hf_layerfusion.recipes.model_setup import resolve_path
    from hf_layerfusion.recipes.multitask.task_prediction import predict_tasks, task_entry
    from hf_layerfusion.recipes.prediction_run import predict_only, training_settings
    from hf_layerfusion.recipes.recipe_arguments import (
        TextDataArguments,
        TextModelArguments,
        TextTrainingArguments,
    )

    try:
        config = AutoConfig.from_pretrained(
            resolve_path(arguments.model), trust_remote_code=arguments.trust_remote_code
        )
    except LOADING_ERRORS:
        config = None  # adapters alone, or nothing, which the loading of the model reports
    has_tasks = bool(getattr(config, "tasks", None))
    if arguments.task and not has_tasks:
        raise UserError(f"--task is for a model of several tasks, found one of one task, {arguments.model}")
    stored = training_settings(resolve_path(arguments.model)) or {}
    if has_tasks and len(arguments.task or ()) == 1:
        stored = task_entry(arguments.model, arguments.task[0])
    columns: dict[str, Any] = {
        name: given if (given := getattr(arguments, name)) is not None else stored.get(name, otherwise)
        for name, otherwise in (
            ("text_column", "text"),
            ("text_pair_column", None),
            ("label_column", "label"),
        )
    }
    given = (
        TextModelArguments(model_name_or_path=arguments.model, trust_remote_code=arguments.trust_remote_code),
        TextDataArguments(
            test_file=arguments.file,
            id_column=arguments.id_column,
            prediction_format=arguments.prediction_format,
            class_scores=arguments.class_scores,
            max_predict_samples=arguments.max_predict_samples,
            **columns,
        ),
        TextTrainingArguments(
            output_dir=output_dir,
            do_predict=True,
            use_cpu=arguments.use_cpu,
            per_device_eval_batch_size=arguments.batch_size,
        ),
    )
    return predict_tasks(*given, arguments.task) if has_tasks else predict_only(*given)
