"""Pretrain an encoder further on unlabelled texts; every other script takes the result as --model_name_or_path.

accelerate launch examples/run_mlm.py --model_name_or_path bert-base-uncased --train_file $DATA/sst5/train.csv \
    --validation_fraction 0.1 --learning_rate 5e-6 --layer_decay 0.95 --output_dir outputs/bert-sst5
"""

from hf_layerfusion.cli.pretrain_command import RECIPE

main = RECIPE.main

if __name__ == "__main__":
    RECIPE.call()
