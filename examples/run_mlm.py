"""Trains an encoder further on texts without labels, so that every other script takes it by --model_name_or_path.

accelerate launch examples/run_mlm.py --model_name_or_path bert-base-uncased --train_file $DATA/sst5/train.csv \
    --validation_fraction 0.1 --learning_rate 5e-6 --layer_decay 0.95 --output_dir outputs/bert-sst5
"""

from pathlib import Path

from hf_layerfusion.cli.script import parse_arguments, print_dry_run, print_outputs, run_script
from hf_layerfusion.recipes.pretraining.pretraining_arguments import (
    PretrainingArguments,
    PretrainingDataArguments,
)
from hf_layerfusion.recipes.pretraining.pretraining_run import pretrain
from hf_layerfusion.recipes.recipe_arguments import EncoderArguments


def main() -> None:
    model_arguments, data_arguments, training_arguments = parse_arguments(
        EncoderArguments, PretrainingDataArguments, PretrainingArguments
    )
    results = pretrain(model_arguments, data_arguments, training_arguments)
    if training_arguments.process_index != 0:
        return
    if training_arguments.dry_run:
        print_dry_run(results)
        return
    print_outputs(results, Path(training_arguments.output_dir))


if __name__ == "__main__":
    run_script(main)
