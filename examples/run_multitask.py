"""Fine-tune one model for several tasks with SerBERTus' recipe.

accelerate launch examples/run_multitask.py --model_name_or_path bert-base-uncased --tasks_file examples/tasks.json \
    --data_dir $DATA --num_task_layers 2 --output_dir outputs/cerbertus-2

`examples/tasks.json` declares the three tasks of Stanford's CS 224N on csv files, `examples/tasks_course.json` on the
course's own. `--dry_run` prints the parameters of every architecture.
"""

from hf_layerfusion.cli.train_multitask_command import RECIPE

main = RECIPE.main

if __name__ == "__main__":
    RECIPE.call()
