"""`python -m tests.faults`: runs every campaign and prints the table of figures; `--short` takes two minutes.

An interrupt (Ctrl-C) ends the campaign that runs; its row says so and has what was counted until then.
"""

import os
import tempfile

# Read by the libraries when they are imported.
os.environ.update(
    HF_HOME=tempfile.mkdtemp(prefix="hf_layerfusion-faults-"),
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
    MPLBACKEND="Agg",
)

import argparse
import logging
import random
import re
import shutil
import sys
import time
from pathlib import Path

import torch
import transformers

# Imported once, here, and not by each of the processes that are forked.
import hf_layerfusion.recipes.ensembles.ensemble_run
import hf_layerfusion.recipes.export_run
import hf_layerfusion.recipes.fold_runs
import hf_layerfusion.recipes.multitask.multitask_run
import hf_layerfusion.recipes.pretraining.pretraining_run  # noqa: F401
from tests.faults.contents import corruptions, hostile_configs, malformed_inputs
from tests.faults.disks import damaged_files, disks
from tests.faults.kills import kills
from tests.faults.load import NUM_THREADS, memory, threads
from tests.faults.rows import Row
from tests.faults.scripts import SCRIPTS, fresh, make_data

# A campaign is a function, a name, what it counts (the last must stay 0), and how many cases it has in all and in the
# short form. Those that start threads come last, as no process is forked after them.
CAMPAIGNS = (
    (kills, "kills, then the same command", ("killed", "equal in weights and files", "other"), 220, 5),
    (disks, "disks that refuse", ("tried", "told in one line", "whole on the retry", "raw"), 70, 4),
    (damaged_files, "damaged files of a run", ("tried", "told in one line", "made anew", "raw"), 20, 2),
    (corruptions, "flipped bits", ("tried", "found", "silent"), 300, 80),
    (hostile_configs, "hostile configurations", ("tried", "refused", "loaded, answers finite", "wrong"), 380, 60),
    (malformed_inputs, "malformed files of texts", ("tried", "refused in one line", "read", "raw"), 1000, 300),
    (threads, f"calls from {NUM_THREADS} threads", ("made", "equal to calls one by one", "other"), 20_000, 700),
    (memory, "texts one after another", ("answered", "MiB of growth over the last nine tenths", "too many MiB"),
     20_000, 1_000),
)  # fmt: skip
QUICK = tuple(script for script in SCRIPTS if script.name in ("tweets", "ensemble", "export", "prediction"))
DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"
FIGURES = re.compile(r"(<!-- faults -->\n).*?(<!-- end -->)", re.DOTALL)


def table(rows: list[tuple[Row, float]], seed: int) -> str:
    """The figures as a Markdown table."""
    lines = [f"| campaign (seed {seed}) | figures | minutes |", "|---|---|---|"]
    lines += [f"| {row.name} | {row.figures()} | {seconds / 60:.1f} |" for row, seconds in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a part of each campaign, in two minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="names of campaigns, such as kills")
    parser.add_argument("--update", action="store_true", help="write the figures into docs/reliability.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    logging.disable(
        logging.WARNING
    )  # of damage that is found, hundreds of times; processes of scripts log as ever
    rows = []
    with tempfile.TemporaryDirectory(prefix="hf_layerfusion-faults-") as place:
        folder = Path(place)
        folder.chmod(0o755)  # a campaign runs as another user
        data = make_data(fresh(folder / "data"))
        for campaign, name, columns, number, few in CAMPAIGNS:
            if options.only and campaign.__name__ not in options.only:
                continue
            start, rng = time.perf_counter(), random.Random(f"{options.seed} {campaign.__name__}")
            row = Row(name, columns)
            arguments = (row, few if options.short else number, rng, folder, data)
            try:
                if campaign in (kills, disks):
                    campaign(*arguments, QUICK if options.short else SCRIPTS)
                else:
                    campaign(*arguments)
            except KeyboardInterrupt:  # ends this campaign; what it has counted stands
                row.was_stopped = True
            rows.append((row, time.perf_counter() - start))
            print(f"{row.name}: {row.figures()} ({rows[-1][1]:.0f} s)", flush=True)
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)
    text = table(rows, options.seed)
    print(f"\n{text}")
    if options.update:
        document = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(FIGURES.sub(lambda match: match[1] + text + match[2], document), encoding="utf-8")
    if any(row.failed for row, _ in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
