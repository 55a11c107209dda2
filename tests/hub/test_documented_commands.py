"""Tests that the commands of README and docs run as written, one page after the other from start to end.

bash reads the blocks of a page, with programs in its path that note how they are called. The calls are then made in a
process that talks to the tests' Hub, in a folder where `bert-base-uncased` is a tiny encoder, as is
`sentence-transformers/all-MiniLM-L6-v2` on that Hub; `$DATA` and `$COURSE` hold a few rows of each data set that the
pages name, and `examples` is the project's. A block below a line `<!-- not run: REASON -->` is left out.

Options that make a command small come after its own. `...` stands for the options of a whole command of the page's
script; such a command is checked by `--dry_run`, which reads the data and builds the model.
"""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from transformers import AutoModel, AutoTokenizer

from hf_layerfusion import BertForGRUFusionClassification, Ensemble
from tests.hub.client import ROOT, Client
from tests.hub.repositories import File, Repository
from tests.hub.server import Hub
from tests.test_docs import PAGES, blocks, name
from tests.tiny import NEGATIVE_WORDS, NEUTRAL_WORDS, POSITIVE_WORDS, tiny_config, tiny_tokenizer
from tests.tiny_words import write_glove

PAGES_WITH_COMMANDS = [
    page
    for page in PAGES
    if page.relative_to(ROOT).parts[0] in ("README.md", "docs")
    and not page.name.endswith("results.md")  # which say by what commands their figures were measured
    and blocks(page.read_text(encoding="utf-8"), "bash")
]
QUICK = ("docs/command.md",)
"""Pages that `make test` runs, with the whole chain from the sample to the Hub; `make docs-examples` runs all."""

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
PROGRAMS = ("hf-layerfusion", "python", "accelerate", "make")
RECORD = """#!/bin/bash
{ printf '%s\\0' "$PWD" "${0##*/}" "$@"; printf '\\0'; } >> "$CALLS"
[ "${0##*/} $1" != "hf-layerfusion sample" ] || mkdir -p "$2"
"""

CALL = """
import os, runpy, sys
os.chdir(place)
sys.argv = arguments
result = 0
if arguments[0].endswith(".py"):
    runpy.run_path(arguments[0], run_name="__main__")
else:
    from hf_layerfusion.__main__ import main
    main(arguments[1:])
"""

SMALL = {"num_train_epochs": 1, "use_cpu": True, "disable_tqdm": True, "save_strategy": "epoch"}
BY_RECIPE: dict[str, dict[str, Any]] = {
    "train": {**SMALL, "learning_rate": 1e-3, "per_device_train_batch_size": 32},
    "train-tweets": {**SMALL, "preprocessing": "light", "per_device_train_batch_size": 16},
    "train-absa": {**SMALL, "per_device_train_batch_size": 16},
    "train-nli": {**SMALL, "per_device_train_batch_size": 16},
    "train-multitask": {**SMALL, "per_device_train_batch_size": 16},
    "pretrain": {
        **SMALL,
        "per_device_train_batch_size": 16,
        "head_steps": 1,
        "max_seq_length": 16,
        "max_steps": 2,
    },
}
SCRIPTS = {
    "run_tweets.py": "train-tweets",
    "run_absa.py": "train-absa",
    "run_nli.py": "train-nli",
    "run_multitask.py": "train-multitask",
    "run_mlm.py": "pretrain",
}
WHOLE = {
    "train-tweets": "--model_name_or_path bert-base-uncased --train_file {data}/tweets/train.csv "
    "--validation_file {data}/tweets/dev.csv --output_dir outputs/dry",
    "train-absa": "--model_name_or_path bert-base-uncased --train_file {data}/absa_laptop/train.csv "
    "--output_dir outputs/dry",
    "train-nli": "--model_name_or_path bert-base-uncased --train_file {data}/snli/train.csv "
    "--validation_file {data}/snli/dev.csv --output_dir outputs/dry",
    "train-multitask": "--model_name_or_path bert-base-uncased --tasks_file examples/tasks.json --data_dir {data} "
    "--output_dir outputs/dry",
    "pretrain": "--model_name_or_path bert-base-uncased --train_file {data}/sst5/train.csv --output_dir outputs/dry",
}
"""Options that stand in place of `...` in a command of each recipe."""


class Command(NamedTuple):
    """A call that a page shows.

    Attributes:
        place: the working folder.
        arguments: program or script, and arguments.
    """

    place: str
    arguments: list[str]


def documented(page: Path, folder: Path) -> list[Command]:
    """Return the calls of a page's bash blocks, in order."""
    programs, calls = folder / "bin", folder / "calls"
    if not programs.exists():
        programs.mkdir()
        for program in PROGRAMS:
            (programs / program).write_text(RECORD)
            (programs / program).chmod(0o755)
    shown = blocks(page.read_text(encoding="utf-8"), "bash")
    code = "\n".join(f"(\n{code}\n)" for _, code in shown)  # each begins in the reader's folder
    environment = {
        **os.environ,
        "CALLS": str(calls),
        "DATA": str(folder / "data"),
        "COURSE": str(folder / "course"),
    }
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    calls.write_text("")
    subprocess.run(
        ["bash", "-eu"], input=code, text=True, cwd=folder, env=environment, check=True, timeout=60
    )
    parts = [call.split("\0") for call in calls.read_text().split("\0\0") if call]
    return [Command(place, arguments) for place, *arguments in parts]


def runnable(arguments: Sequence[str], data: Path) -> list[str] | None:
    """Return a call with the options that make it small, None for a program that has tests of its own."""
    program, *rest = arguments
    if program == "accelerate":
        rest = rest[next(place for place, part in enumerate(rest) if part.endswith(".py")) :]
    elif program == "python" and rest[:2] == ["-m", "hf_layerfusion"]:
        program, rest = "hf-layerfusion", rest[2:]
    if program == "make" or rest[:2] == ["-m", "reproduction"]:
        return None  # tests/test_docs.py looks for the targets, tests/reproduction runs tables
    first, *rest = rest
    recipe = first if program == "hf-layerfusion" else SCRIPTS.get(Path(first).name, "")
    while "--num_processes" in rest:  # tests/cli/test_launch.py starts several
        place = rest.index("--num_processes")
        rest = rest[:place] + rest[place + 2 :]
    if any(part in ("...", "…") for part in rest):
        whole = WHOLE[recipe].format(data=data).split()
        given = [part for part in rest if part not in ("...", "…")]
        # The command's own options replace those of the whole one.
        kept = [pair for pair in zip(whole[::2], whole[1::2], strict=True) if pair[0] not in given]
        rest = [part for pair in kept for part in pair] + given
        rest += [] if "--dry_run" in rest else ["--dry_run", "True"]
    if recipe in BY_RECIPE:
        small = {"hp_trials": 2} if "--hp_trials" in rest else {}
        small |= {"folds": 2} if "--folds" in rest else {}
        rest += [
            part
            for option in {**BY_RECIPE[recipe], **small}.items()
            for part in (f"--{option[0]}", str(option[1]))
        ]
    return ["hf-layerfusion", first, *rest] if program == "hf-layerfusion" else [first, *rest]


def rows_of(kind: str, seed: int, count: int) -> list[dict[str, Any]]:
    """Return rows of a data set, with the columns that the pages' commands read."""
    rng, rows = random.Random(f"{kind} {seed}"), []
    for number in range(count):
        words = POSITIVE_WORDS if number % 2 else NEGATIVE_WORDS
        text, second = (" ".join([*rng.choices(NEUTRAL_WORDS, k=6), rng.choice(words)]) for _ in range(2))
        labels = {
            "absa": ("positive", "neutral", "negative"),
            "snli": ("entailment", "neutral", "contradiction"),
            "sst5": ("very negative", "negative", "neutral", "positive", "very positive"),
            "quora": ("different", "duplicate"),
        }.get(kind, ("negative", "positive"))
        label: Any = labels[number % len(labels)] if kind != "sts" else round(rng.random() * 5, 1)
        columns = {
            "absa": {"sentence": f"{text} {number}", "aspect": text.split()[0]},
            "snli": {"sentence1": text, "sentence2": second},
            "quora": {"sentence1": text, "sentence2": second},
            "sts": {"sentence1": text, "sentence2": second},
            "cfimdb": {"text": f"{text}. {second} {number}."},
        }.get(kind, {"text": f"{text} {number}"})
        rows.append({**columns, "label": label})
    return rows


def write(path: Path, rows: Sequence[dict[str, Any]], delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write_course(folder: Path) -> None:
    """Write the files of the course: tab-separated, with ids, and labels as numbers."""
    names = {
        "sst5": ("ids-sst-{}.csv", "sentiment"),
        "quora": ("quora-{}.csv", "is_duplicate"),
        "sts": ("sts-{}.csv", "similarity"),
    }
    for kind, (file, label) in names.items():
        for seed, split in enumerate(("train", "dev", "test-student")):
            rows = []
            for number, row in enumerate(rows_of(kind, seed, 60)):
                value: Any = number % (5 if kind == "sst5" else 2) if kind != "sts" else row["label"]
                texts = (
                    {"sentence": row["text"]}
                    if kind == "sst5"
                    else {key: row[key] for key in ("sentence1", "sentence2")}
                )
                rows.append(
                    {
                        "": number,
                        "id": f"{kind}{seed}{number}",
                        **texts,
                        **({label: value} if seed < 2 else {}),
                    }
                )
            write(folder / file.format(split), rows, "\t")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a reader: encoders, data and examples."""
    encoder = AutoModel.from_config(tiny_config("bert", num_hidden_layers=6))
    encoder.save_pretrained(tmp_path / "bert-base-uncased")
    tiny_tokenizer().save_pretrained(tmp_path / "bert-base-uncased")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    places = {"absa": "absa_laptop", "irony": "tweeteval_irony"}
    for kind in ("tweets", "absa", "snli", "sst5", "quora", "sts", "cfimdb", "irony"):
        place = places.get(kind, kind)
        for seed, split in enumerate(("train", "dev", "test")):
            write(tmp_path / "data" / place / f"{split}.csv", rows_of(kind, seed, 120))
    write_course(tmp_path / "course" / "data")
    write(tmp_path / "more_tweets.csv", rows_of("tweets", 3, 120))  # a teacher's texts are in no other split
    for split in ("train", "test", "new", "more", "reviews"):
        shutil.copy(
            tmp_path / "data" / "tweets" / f"{'train' if split == 'train' else 'test'}.csv",
            tmp_path / f"{split}.csv",
        )
    (tmp_path / "run.yaml").write_text(
        "train_file: train.csv\nmodel_name_or_path: bert-base-uncased\noutput_dir: outputs/of-file\n"
    )
    (tmp_path / "ia3.json").write_text('{"peft_type": "IA3"}')
    write_glove(tmp_path / "glove.6B.300d.txt")
    reviews = [{"text": row["text"]} for row in rows_of("cfimdb", 3, 40)]
    (tmp_path / "laptop_reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reviews))
    return tmp_path


def save_trained(folder: Path) -> None:
    """Save the model that docs/recipes.md trains, and an ensemble of it."""
    model = BertForGRUFusionClassification.from_pretrained(
        folder / "bert-base-uncased", num_groups=2, id2label={0: "negative", 1: "positive"}
    )
    model.save_pretrained(folder / "outputs" / "grubert-share-3")
    tokenizer = AutoTokenizer.from_pretrained(folder / "bert-base-uncased")
    tokenizer.save_pretrained(folder / "outputs" / "grubert-share-3")
    ensemble = Ensemble.of([str(folder / "outputs" / "grubert-share-3")] * 2)
    for saved in ("both", "vote"):
        ensemble.save_pretrained(folder / "outputs" / saved)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name(page), marks=() if name(page) in QUICK else pytest.mark.slow)
        for page in PAGES_WITH_COMMANDS
    ],
)
def test_the_commands_of_a_page_run_in_order(page: Path, folder: Path, lfs_client: Client, hub: Hub) -> None:
    commands = documented(page, folder)
    assert commands
    if name(page) != "docs/recipes.md":  # which trains it
        save_trained(folder)
    files = {path.name: path.read_bytes() for path in (folder / "bert-base-uncased").iterdir()}
    repository = hub.repositories.setdefault(MINILM, Repository(MINILM))
    repository.commit("main", "a tiny encoder", {file: File(content) for file, content in files.items()})
    for command in commands:
        arguments = runnable(command.arguments, folder / "data")
        if arguments is None:
            continue
        code = lfs_client.run(CALL, place=command.place, arguments=arguments)
        assert code == 0, f"{' '.join(arguments)}\n{lfs_client.output[-3000:]}"
    if name(page) == "docs/command.md":
        assert {"model.safetensors", "README.md", "run/all_results.json"} <= hub.files("org/sample").keys()


def test_bash_reads_the_pages_commands(folder: Path) -> None:
    page = folder / "page.md"
    page.write_text(
        "```bash\nfor seed in 1 2; do\n  hf-layerfusion train --seed $seed \\\n    --output_dir 'a b'  # remark\ndone\n"
        "cd bert-base-uncased\n```\n"
        "<!-- not run: too long -->\n```bash\nmake test\n```\n```bash\npython -m hf_layerfusion env && make demo\n```\n"
    )
    found = documented(page, folder)
    assert {command.place for command in found} == {str(folder)}
    assert [command.arguments for command in found] == [
        ["hf-layerfusion", "train", "--seed", "1", "--output_dir", "a b"],
        ["hf-layerfusion", "train", "--seed", "2", "--output_dir", "a b"],
        ["python", "-m", "hf_layerfusion", "env"],
        ["make", "demo"],
    ]
    given = ["accelerate", "launch", "--num_machines", "1", "examples/run_nli.py", "...", "--output_dir", "x"]
    small = runnable(given, folder / "data")
    assert small is not None and small[0] == "examples/run_nli.py" and "..." not in small
    assert small.count("--output_dir") == 1 and "--dry_run" in small
