"""Fine-tunes a classifier of premise and hypothesis with BERT-LSTM's recipe.

accelerate launch examples/run_nli.py --model_name_or_path bert-base-uncased --train_file $DATA/snli/train.csv \
    --validation_file $DATA/snli/dev.csv --test_file $DATA/snli/test.csv --output_dir outputs/bert-lstm-snli

Reads SNLI's own `.jsonl` files too.
"""

from pathlib import Path

from transformers import pipeline

from hf_layerfusion.cli.script import parse_arguments, print_dry_run, print_outputs, run_script
from hf_layerfusion.recipes.recipe_arguments import (
    NliDataArguments,
    NliTrainingArguments,
    PoolingModelArguments,
)
from hf_layerfusion.recipes.training_run import classify

PAIRS = (
    ("Two dogs run along the beach.", "Animals are outside."),
    ("Two dogs run along the beach.", "The dogs are asleep."),
    ("Two dogs run along the beach.", "The dogs chase a ball."),
)


def main() -> None:
    model_arguments, data_arguments, training_arguments = parse_arguments(
        PoolingModelArguments, NliDataArguments, NliTrainingArguments
    )
    results = classify(model_arguments, data_arguments, training_arguments)
    if training_arguments.process_index != 0:
        return
    if training_arguments.dry_run:
        print_dry_run(results)
        return
    folder = Path(training_arguments.output_dir)
    print_outputs(results, folder)
    if (folder / "config.json").exists():
        print(f'\npipeline("text-classification", model="{folder}") says:')
        classifier = pipeline("text-classification", model=str(folder), device="cpu", truncation=True)
        for premise, hypothesis in PAIRS:
            answer = classifier({"text": premise, "text_pair": hypothesis})
            print(f"  {answer['label']} ({answer['score']:.2f})  {premise} {hypothesis}")


if __name__ == "__main__":
    run_script(main)
