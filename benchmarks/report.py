"""Runs the benchmarks and writes their figures into docs/performance.md.

The records of each benchmark are kept in `outputs/bench`, so that a report that was interrupted goes on where it
stopped; `--again` measures anew. A benchmark that fails or takes too long is named in the table and stops nothing, and
is run again by the next report.

    python benchmarks/report.py
    python benchmarks/report.py --only bench_serving bench_scaling --again --rounds 5
    python benchmarks/report.py --all
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from bench_scaling import SERIES
from common import RECORDS

ROOT = Path(__file__).parents[1]
PAGE, FIGURE = ROOT / "docs/performance.md", ROOT / "docs/figures/cost.png"
BEGIN, END = "<!-- begin of the generated table -->", "<!-- end of the generated table -->"
LIMIT, TOTAL = 240, 850  # seconds of a benchmark, and of those that run by default
FIGURE_TEXT = """\
![Cost of a training step against the length of texts, and of prediction against the number of tasks](figures/cost.png)

The left side shows a training step of GRUBERT `share-3` with GRUs and with minGRUs relative to the plain classifier on
the same 1,024 tokens (one text if it is longer), on a random encoder of six layers of width 384. The right side shows
predictions of CerBERTus for several tasks on the same texts relative to one task, with no task layers (k = 0) and with
two of six (k = 2)."""
ROUNDS = "--repeats"
# Options with which all of them together take less than 15 minutes on two cores.
SCRIPTS: dict[str, tuple[str, ...]] = {
    "bench_serving": (ROUNDS,),
    "bench_scaling": (ROUNDS,),
    "bench_models": (ROUNDS,),
    "bench_multitask": (ROUNDS,),
    "bench_frozen": (ROUNDS,),
    "bench_training": (ROUNDS,),
    "bench_surgery": (ROUNDS,),
    "bench_smart": (ROUNDS,),
    "bench_inference": (),
}
# Benchmarks that run only with `--all` or `--only`, each for at most `FURTHER_LIMIT` seconds.
FURTHER: dict[str, tuple[str, ...]] = {
    "bench_frozen_runs": (ROUNDS,),
    "bench_embeddings": (ROUNDS,),
    "bench_adapters": (ROUNDS,),
    "bench_pretraining": (ROUNDS,),
    "bench_processes": (ROUNDS,),
    "bench_export": (ROUNDS,),
    "bench_compile": (ROUNDS,),
    "bench_ensembling": (),
    "bench_preparation": (),
    "bench_streaming": (),
}
FURTHER_LIMIT = 900


def run(script: str, folder: Path, rounds: int, limit: float) -> dict[str, Any]:
    """Run a benchmark and return its records, and what stopped it if it did not end well."""
    records, partial = folder / f"{script}.json", folder / f"{script}.jsonl"
    partial.unlink(missing_ok=True)
    options = [each for name in (SCRIPTS | FURTHER)[script] for each in (name, str(rounds))]
    environment = os.environ | {RECORDS: str(partial), SERIES: str(folder / "series.json")}
    problem = ""
    try:
        ended = subprocess.run(
            [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *options],
            env=environment,
            timeout=limit,
            check=False,
        )
        if ended.returncode:
            problem = f"ended with {ended.returncode}"
    except subprocess.TimeoutExpired:
        problem = f"took more than {limit:.0f} s"
    lines = partial.read_text(encoding="utf-8").splitlines() if partial.exists() else []
    result = {
        "rows": [json.loads(line) for line in lines],
        "problem": problem,
        "load": os.getloadavg()[0],
        "date": date.today().isoformat(),
    }
    if not problem:
        records.write_text(json.dumps(result), encoding="utf-8")
    return result


def processor() -> str:
    """Return the name of the processor."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def number(value: float | None) -> str:
    """Return a number with four digits, as targets have; nothing for None."""
    return "" if value is None else f"{value:.4g}"


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return the generated part of the page."""
    loads = [result["load"] for result in results.values()]
    days = sorted({result["date"] for result in results.values()})
    lines = [
        f"{processor()}, {os.cpu_count()} cores, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{' to '.join(dict.fromkeys((days[0], days[-1])))}; load average at the end of each "
        f"{min(loads):.1f} to {max(loads):.1f}.",
        "",
        "| benchmark | what | against | figure | spread | bound | target | verdict |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for script, result in results.items():
        for row in result["rows"]:
            spread = f"{number(row['low'])} to {number(row['high'])}" if row["rounds"] > 1 else ""
            cells = [script, row["what"], row["peer"], number(row["figure"]), spread]
            cells += [number(row["bound"]), row["target"] or "", row["verdict"]]
            lines.append(f"| {' | '.join(cells)} |")
        if result["problem"]:
            lines.append(f"| {script} | did not finish: {result['problem']} | | | | | | not run |")
    return "\n".join([*lines, "", FIGURE_TEXT] if FIGURE.exists() else lines)


def draw(series: dict[str, Any]) -> None:
    """Draw cost against length and against the number of tasks."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    titles = {
        "length": ("tokens of a text", "training step / plain"),
        "tasks": ("tasks", "prediction / one task"),
    }
    for axis, (part, (below, beside)) in zip(axes, titles.items(), strict=True):
        places = series[part].pop("x")
        for name, values in series[part].items():
            axis.plot(places, values, marker="o", label=name)
        axis.axhline(1, color="grey", linewidth=0.8, linestyle=":")
        axis.set_xscale("log", base=2)
        axis.set_xticks(places, [f"{place:,}" for place in places])
        axis.minorticks_off()
        axis.set_ylim(0, 1.1 * axis.get_ylim()[1])
        axis.set(xlabel=below, ylabel=beside)
        axis.legend(frameon=False)
    figure.savefig(FIGURE, dpi=120)


def main() -> None:
    """Run the benchmarks and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds of each benchmark")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--only", nargs="+", choices=SCRIPTS | FURTHER, help="benchmarks to run")
    chosen.add_argument(
        "--all", action="store_true", help="run also those that make it longer than 15 minutes"
    )
    parser.add_argument("--again", action="store_true", help="measure again what was measured before")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "outputs/bench", help="where the records are kept"
    )
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    results = {}
    end = time.monotonic() + TOTAL
    asked = arguments.only or [*SCRIPTS, *(FURTHER if arguments.all else ())]
    for script in SCRIPTS | FURTHER:
        kept = arguments.folder / f"{script}.json"
        if script in asked and (arguments.again or not kept.exists()):
            print(f"\n{script}", flush=True)
            limit = FURTHER_LIMIT if script in FURTHER else max(1.0, min(LIMIT, end - time.monotonic()))
            results[script] = run(script, arguments.folder, arguments.rounds, limit)
        elif kept.exists():
            results[script] = json.loads(kept.read_text(encoding="utf-8"))
    if not results:
        return
    series = arguments.folder / "series.json"
    if series.exists():
        draw(json.loads(series.read_text(encoding="utf-8")))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}", encoding="utf-8")
    print(f"\nwritten: {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
