"""Fine-tunes a classifier of aspect sentiment with BERT-LSTM's recipe, once or in cross-validation.

accelerate launch examples/run_absa.py --model_name_or_path bert-base-uncased --train_file $DATA/absa_laptop/train.csv \
    --folds 10 --output_dir outputs/bert-lstm-laptop

Without `--folds` and `--test_file` the validation file is the test, and checkpoints are chosen on a tenth of the
training data.
"""

from pathlib import Path

from transformers import pipeline

from hf_layerfusion.cli.script import parse_arguments, print_dry_run, print_outputs, run_script
from hf_layerfusion.recipes.fold_runs import cross_validate
from hf_layerfusion.recipes.recipe_arguments import (
    AbsaDataArguments,
    AbsaTrainingArguments,
    PoolingModelArguments,
)
from hf_layerfusion.recipes.training_run import classify

PAIRS = (
    ("The food was wonderful but the waiter was rude.", "food"),
    ("The food was wonderful but the waiter was rude.", "waiter"),
    ("The battery lasts four hours.", "battery"),
)


def main() -> None:
    model_arguments, data_arguments, training_arguments = parse_arguments(
        PoolingModelArguments, AbsaDataArguments, AbsaTrainingArguments
    )
    run = classify if data_arguments.folds is None else cross_validate
    results = run(model_arguments, data_arguments, training_arguments)
    if training_arguments.process_index != 0:
        return
    if training_arguments.dry_run:
        print_dry_run(results)
        return
    folder = Path(training_arguments.output_dir)
    print_outputs(results, folder)
    if (folder / "config.json").exists() and not data_arguments.sentence_only:
        print(f'\npipeline("text-classification", model="{folder}") says:')
        classifier = pipeline("text-classification", model=str(folder), device="cpu", truncation=True)
        for sentence, aspect in PAIRS:
            answer = classifier({"text": sentence, "text_pair": aspect})
            print(f"  {answer['label']} ({answer['score']:.2f})  {aspect}: {sentence}")


if __name__ == "__main__":
    run_script(main)
