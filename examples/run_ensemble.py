"""Tries ensembles of trained models: each predicts once, then combiners are compared in seconds.

python examples/run_ensemble.py --members outputs/share-3 outputs/roberta outputs/multilingual \
    --validation_file $DATA/tweets/dev.csv --test_file $DATA/tweets/test.csv --output_dir outputs/vote

The folder is the ensemble of the best combiner, or of `--combiner majority_vote`, with its card, the table of all of
them, predictions and a plot; `Ensemble.from_pretrained` opens it. docs/ensembles.md says what each option is for.
"""

from pathlib import Path

from hf_layerfusion.cli.script import parse_arguments, print_dry_run, print_outputs, run_script
from hf_layerfusion.recipes.ensembles.ensemble_arguments import EnsembleArguments, EnsembleDataArguments
from hf_layerfusion.recipes.ensembles.ensemble_run import make_ensemble


def main() -> None:
    arguments, data_arguments = parse_arguments(EnsembleArguments, EnsembleDataArguments)
    results = make_ensemble(arguments, data_arguments)
    if arguments.dry_run:
        print_dry_run(results)
        return
    folder = Path(arguments.output_dir)
    print((folder / "table.csv").read_text(encoding="utf-8"))
    print_outputs(results, folder)


if __name__ == "__main__":
    run_script(main)
