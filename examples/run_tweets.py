"""Fine-tune a text classifier on tweets with GRUBERT's recipe: from raw tweets to a published model.

accelerate launch examples/run_tweets.py --model_name_or_path bert-base-uncased --train_file $DATA/tweets/train.csv \
    --validation_file $DATA/tweets/dev.csv --test_file $DATA/tweets/test.csv --output_dir outputs/grubert-share-3
"""

from hf_layerfusion.cli.train_tweets_command import RECIPE

main = RECIPE.main

if __name__ == "__main__":
    RECIPE.call()
