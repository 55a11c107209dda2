"""Fine-tune a classifier of premise and hypothesis with BERT-LSTM's recipe.

accelerate launch examples/run_nli.py --model_name_or_path bert-base-uncased --train_file $DATA/snli/train.csv \
    --validation_file $DATA/snli/dev.csv --test_file $DATA/snli/test.csv --output_dir outputs/bert-lstm-snli

Reads SNLI's own `.jsonl` files too.
"""

from hf_layerfusion.cli.train_nli_command import RECIPE

main = RECIPE.main

if __name__ == "__main__":
    RECIPE.call()
