"""Fine-tunes one model for several tasks with SerBERTus' recipe.

accelerate launch examples/run_multitask.py --model_name_or_path bert-base-uncased --tasks_file examples/tasks.json \
    --data_dir $DATA --num_task_layers 2 --output_dir outputs/cerbertus-2

`examples/tasks.json` declares the three tasks of Stanford's CS 224N on csv files, `examples/tasks_course.json` on the
course's own. `--dry_run` prints the parameters of every architecture.
"""

from pathlib import Path

from hf_layerfusion.cli.script import parse_arguments, print_dry_run, print_outputs, run_script
from hf_layerfusion.recipes.multitask.multitask_arguments import (
    MultitaskDataArguments,
    MultitaskModelArguments,
    MultitaskTrainingArguments,
)
from hf_layerfusion.recipes.multitask.multitask_run import train_tasks


def main() -> None:
    model_arguments, data_arguments, training_arguments = parse_arguments(
        MultitaskModelArguments, MultitaskDataArguments, MultitaskTrainingArguments
    )
    results = train_tasks(model_arguments, data_arguments, training_arguments)
    if training_arguments.process_index != 0:
        return
    if training_arguments.dry_run:
        for variant, counts in results["architectures"].items():
            parts = {"shared": counts["shared"], "frozen": counts["frozen"], **counts["tasks"]}
            listed = ", ".join(f"{name} {number:,}" for name, number in parts.items())
            print(f"{variant:16} {counts['total']:>13,}: {listed}")
        print_dry_run(results)
        return
    print_outputs(results, Path(training_arguments.output_dir))


if __name__ == "__main__":
    run_script(main)
