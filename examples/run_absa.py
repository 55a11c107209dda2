"""Fine-tune a classifier of aspect sentiment with BERT-LSTM's recipe, once or in a cross-validation.

accelerate launch examples/run_absa.py --model_name_or_path bert-base-uncased --train_file $DATA/absa_laptop/train.csv \
    --folds 10 --output_dir outputs/bert-lstm-laptop

Without `--folds` and `--test_file` the validation file serves as test data, and checkpoints are selected on a tenth of
the training data.
"""

from hf_layerfusion.cli.train_absa_command import RECIPE

main = RECIPE.main

if __name__ == "__main__":
    RECIPE.call()
