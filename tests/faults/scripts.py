"""Every script on data that are small enough to be run hundreds of times, each in a process that may be killed.

Processes are forked from one that has imported everything, so that a call costs its work and not its imports.
"""

import csv
import json
import logging
import os
import random
import runpy
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel

from tests.ensembling.small import save_member
from tests.tiny import tiny_config, tiny_texts, tiny_tokenizer, write_csv

EXAMPLES = Path(__file__).parents[2] / "examples"
OUTPUT = "run"
TRAINING = {
    "use_cpu": True, "learning_rate": 3e-3, "num_train_epochs": 2, "per_device_train_batch_size": 16,
    "disable_tqdm": True, "max_seq_length": 24,
}  # fmt: skip
SMALL = {"fusion_hidden_size": 8, "downstream_hidden_size": 8, "dense_size": 8}


@dataclass(frozen=True)
class Script:
    """A script with arguments.

    Attributes:
        name: what the figures call it.
        file: in `examples/`.
        options: its arguments; paths are relative to the folder that `make_data` fills.
        resumes: whether a run that was cut off is gone on with by `--resume_from_checkpoint True`; else the same
            command begins anew.
        output: the option that names its output folder.
    """

    name: str
    file: str
    options: dict[str, Any]
    resumes: bool = True
    output: str = "output_dir"

    def arguments(self, data: Path, resume: bool = False) -> list[str]:
        """The command line, with the outputs in the folder `run` of the process's own."""
        options = {**self.options, self.output: OUTPUT}
        if resume and self.resumes:
            options["resume_from_checkpoint"] = True
        parts = []
        for name, value in options.items():
            values = value if isinstance(value, list) else [value]
            parts += [f"--{name}", *(str(each).replace("DATA/", f"{data}/") for each in values)]
        return parts


TWEETS = {
    "model_name_or_path": "DATA/encoder", "train_file": "DATA/train.csv", "validation_file": "DATA/dev.csv",
    "test_file": "DATA/test.csv", "num_groups": 2, "preprocessing": "light", **SMALL, **TRAINING,
}  # fmt: skip
SCRIPTS = (
    Script("tweets", "run_tweets.py", TWEETS),
    Script("tweets, seeds", "run_tweets.py", {**TWEETS, "seeds": [1, 2], "num_train_epochs": 1}),
    Script(
        "folds",
        "run_absa.py",
        {"model_name_or_path": "DATA/encoder", "train_file": "DATA/aspects.csv", "folds": 2,
         "fold_split": "stratified", **TRAINING, "num_train_epochs": 1},
    ),
    Script(
        "pairs",
        "run_nli.py",
        {"model_name_or_path": "DATA/encoder", "train_file": "DATA/pairs.csv", "validation_file": "DATA/pairs.csv",
         **TRAINING, "num_train_epochs": 1},
    ),
    Script(
        "tasks",
        "run_multitask.py",
        {"model_name_or_path": "DATA/encoder", "tasks_file": "DATA/tasks.json", "num_task_layers": 1, **TRAINING},
    ),
    Script(
        "pre-training",
        "run_mlm.py",
        {"model_name_or_path": "DATA/encoder", "train_file": "DATA/train.csv", "head_steps": 2, "save_steps": 4,
         "save_strategy": "steps", **TRAINING},
    ),
    Script(
        "search",
        "run_tweets.py",
        {**TWEETS, "num_train_epochs": 1, "hp_search": "optuna", "hp_trials": 2, "hp_space": "DATA/space.json"},
    ),
    Script("prediction", "run_tweets.py",
           {"model_name_or_path": "DATA/member-0", "test_file": "DATA/test.csv", "do_predict": True, "use_cpu": True,
            "disable_tqdm": True}, resumes=True),
    Script(
        "ensemble",
        "run_ensemble.py",
        {"members": ["DATA/member-0", "DATA/member-1"], "validation_file": "DATA/dev.csv",
         "test_file": "DATA/test.csv", "device": "cpu", "unverified_members": True, "soup": True,
         "prediction_cache": "cache", "carry_members": True},
        resumes=False,
    ),
    Script("export", "export_onnx.py", {"model_name_or_path": "DATA/member-0"}, resumes=False),
)  # fmt: skip


def make_data(folder: Path) -> Path:
    """Writes an encoder, members and texts for all scripts."""
    torch.manual_seed(0)
    AutoModel.from_config(tiny_config("bert", num_hidden_layers=2)).save_pretrained(folder / "encoder")
    tiny_tokenizer().save_pretrained(folder / "encoder")
    for seed in (0, 1):
        save_member(folder / f"member-{seed}", labels=("negative", "positive"), seed=seed)
    for name, size, seed in (("train", 64, 0), ("dev", 24, 1), ("test", 24, 2)):
        write_csv(folder / f"{name}.csv", tiny_texts(size, seed))
    texts = tiny_texts(48, 3)
    with (folder / "aspects.csv").open("w", encoding="utf-8", newline="") as file:
        rows = [(f"{text} {number}", "food", label) for number, (text, label) in enumerate(texts)]
        csv.writer(file).writerows([("sentence", "aspect", "label"), *rows])
    with (folder / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        rows = [(f"{text} {number}", "a day", label) for number, (text, label) in enumerate(texts)]
        csv.writer(file).writerows([("sentence1", "sentence2", "label"), *rows])
    task = {"train_file": "train.csv", "validation_file": "dev.csv", "test_file": "test.csv"}
    (folder / "tasks.json").write_text(json.dumps({"one": task, "two": task}))
    (folder / "space.json").write_text(
        json.dumps({"learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}})
    )
    return folder


@dataclass
class Ended:
    """How a call ended.

    Attributes:
        code: exit code, minus the signal's number of one that was killed.
        error: what it wrote to standard error.
        seconds: its time.
    """

    code: int
    error: str
    seconds: float

    @property
    def is_one_line(self) -> bool:
        """Whether it refused as it should: exit code 2, the last line an error, no traceback."""
        lines = self.error.strip().splitlines()
        return (
            self.code == 2
            and bool(lines)
            and lines[-1].startswith("error: ")
            and "Traceback" not in self.error
        )


def call(
    script: Script,
    folder: Path,
    data: Path,
    *,
    resume: bool = False,
    before: Callable[[], None] = lambda: None,
    kill_after: float | None = None,
    more: tuple[str, ...] = (),
) -> Ended:
    """Runs a script in a process of its own, whose working folder is `folder`.

    Args:
        script: which.
        folder: where the folder `run` is, or will be.
        data: as `make_data` made it.
        resume: go on with a run that was cut off.
        before: called in the new process first, to arm a fault.
        kill_after: seconds until it is killed.
        more: further arguments.
    """
    log, start = folder.parent / f"{folder.name}.log", time.perf_counter()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.chdir(folder)
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            random.seed(0), np.random.seed(0), torch.manual_seed(0)
            sys.argv = [script.file, *script.arguments(data, resume), *more]
            logging.disable(logging.NOTSET)
            before()
            runpy.run_path(str(EXAMPLES / script.file), run_name="__main__")
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    if kill_after is not None:
        while time.perf_counter() - start < kill_after and not os.waitid(
            os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT
        ):
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    error = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return Ended(os.waitstatus_to_exitcode(status), error, time.perf_counter() - start)


def fresh(folder: Path) -> Path:
    """An empty folder of this name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
