"""Compare ensembles of trained models: each member predicts once, then combiners are compared in seconds.

python examples/run_ensemble.py --members outputs/share-3 outputs/roberta outputs/multilingual \
    --validation_file $DATA/tweets/dev.csv --test_file $DATA/tweets/test.csv --output_dir outputs/vote

The output folder holds the ensemble with the best combiner, or with `--combiner majority_vote`, its card, a table of
all combiners, predictions and a plot; `Ensemble.from_pretrained` loads it. docs/ensembles.md explains the options.
"""

from hf_layerfusion.cli.ensemble_command import RECIPE

main = RECIPE.main

if __name__ == "__main__":
    RECIPE.call()
