"""Compare ensembles of trained models: each member predicts once, then combiners are compared in seconds.

python examples/run_ensemble.py --members outputs/share-3 outputs/roberta outputs/multilingual \
    --validation_file $DATA/tweets/dev.csv --test_file $DATA/tweets/test.csv --output_dir outputs/vote

The folder is the ensemble of the best combiner, or of `--combiner majority_vote`, with its card, the table of all of
them, predictions and a plot; `Ensemble.from_pretrained` opens it. docs/ensembles.md says what each option is for.
"""

from hf_layerfusion.cli.ensemble_command import RECIPE

main = RECIPE.main

if __name__ == "__main__":
    RECIPE.call()
