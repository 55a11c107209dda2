"""Fine-tunes a text classifier on tweets with GRUBERT's recipe: raw tweets in, a published model out.

accelerate launch examples/run_tweets.py --model_name_or_path bert-base-uncased --train_file $DATA/tweets/train.csv \
    --validation_file $DATA/tweets/dev.csv --test_file $DATA/tweets/test.csv --output_dir outputs/grubert-share-3
"""

from pathlib import Path

from transformers import pipeline

from hf_layerfusion.cli.script import parse_arguments, print_dry_run, print_outputs, run_script
from hf_layerfusion.recipes.recipe_arguments import DataArguments, ModelArguments, TweetTrainingArguments
from hf_layerfusion.recipes.training_run import classify

SENTENCES = (
    "what a lovely morning, thank you all!",
    "my phone died again and i missed the train",
    "finally friday!! cant wait to see you guys",
    "i hate mondays so much, feeling sick",
    "the meeting is at ten",
)


def main() -> None:
    model_arguments, data_arguments, training_arguments = parse_arguments(
        ModelArguments, DataArguments, TweetTrainingArguments
    )
    results = classify(model_arguments, data_arguments, training_arguments)
    if training_arguments.process_index != 0:
        return
    if training_arguments.dry_run:
        print_dry_run(results)
        return
    folder = Path(training_arguments.output_dir)
    print_outputs(results, folder)
    if (folder / "config.json").exists() and data_arguments.text_pair_column is None:
        print(f'\npipeline("text-classification", model="{folder}") says:')
        classifier = pipeline("text-classification", model=str(folder), device="cpu", truncation=True)
        for sentence, answer in zip(SENTENCES, classifier(list(SENTENCES)), strict=True):
            print(f"  {answer['label']} ({answer['score']:.2f})  {sentence}")


if __name__ == "__main__":
    run_script(main)
