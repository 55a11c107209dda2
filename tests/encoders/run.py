"""Checks every architecture of transformers that reads texts, and writes docs/encoders.md (`make encoders`).

With names, as in `python -m tests.encoders.run bert gpt2`, it checks these and prints what it finds. With
`--rows FILE` each row is kept in that file when it is done, so that a run that was stopped goes on. With `--onnx` each
row has a column for the export, which doubles the time. Ends with 1 if a cell fails.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections import defaultdict
from pathlib import Path

import torch
import transformers

from hf_layerfusion.modeling.encoders import is_causal
from tests.encoders.sweep import MODELS, Result, check, check_export
from tests.encoders.tiny_encoders import skipped_types, text_types, tiny_encoder_config, why_not_built

PAGE = Path(__file__).resolve().parents[2] / "docs" / "encoders.md"
SIGNS = {"passes": "✓", "limited": "✓", "refused": "refused", "fails": "✗"}

INTRODUCTION = """# Encoders

This page lists the architectures that can be used as an encoder, checked with transformers {version} on small models
with random weights. `make encoders` regenerates this page; `python -m tests.encoders.run bert gpt2` checks some.
Each cell builds GRUBERT, the pooling over layers (of the default vector, the mean over tokens and the last token) or
CerBERTus with k task-specific layers, and checks that

- a single text gets the same logits as in a batch that is padded on the right;
- so does a long text, of several blocks of sparse attention;
- every token of a text changes the logits;
- the states that are fused are what the encoder's layers return, after its final normalization where it has one;
- a saved model gives the same logits when it is loaded by the Auto class or by the code in its own folder, and a model
  built on an encoder's checkpoint reads that encoder's states;
- all tasks in one pass get the same logits as each task by itself.

Two properties do not count as failures and are listed as limits: states that change with padding on the left, and
weights that are not used.

**Causal encoders** (GPT-2, Llama, Qwen3, …): a token sees only those before it, so that the first has seen nothing of
the text. The poolings and CerBERTus' sentence vectors read the last real token there by default
(`token_pooling="last"`, `sentence_vector="last"`, stated in the configuration), and `"cls"` is refused. `"mean"` and
GRUBERT's recurrences along the tokens see the whole text in any case. Positions count from the first real token, so
that padding may be on the left, as in most tokenizers of such models. A decoder that was converted to an encoder
(`is_causal=False`, or `use_bidirectional_attention=True` as in EmbeddingGemma) is recognized. Keys and values are not
kept (`use_cache=False`).

**Pre-norm encoders** (ModernBERT, EuroBERT, ESM, all decoders, …) normalize the state of the last layer alone, so that
a fuser would mix two scales. All layers go through that normalization there before they are fused
([normalize_layers](model.md#layers-on-one-scale)).

**Encoder-decoders** (T5, UMT5, BART, mBART, Marian, …) are used without their decoder. T5 and its relatives have no
special first token, so that `token_pooling="mean"` suits them better than `"cls"`. Of models that read images too
(Gemma 3, …) the **text part** is the encoder. Checkpoints of the whole model are read in both cases.

**Longformer** gets global attention on the first token, as in transformers' own classifiers. **BigBird** switches to
full attention at the first batch that is too short for blocks, and does not switch back;
`attention_type="original_full"` treats all batches alike.
"""


def run(names: list[str], rows: Path | None = None, onnx: bool = False) -> dict[str, dict[str, Result]]:
    """The result of each column, by architecture; rows of an earlier run are taken from the file `rows`."""
    found: dict[str, dict[str, Result]] = {}
    if rows is not None and rows.exists():
        for line in rows.read_text(encoding="utf-8").splitlines():
            name, cells = json.loads(line)
            found[name] = {column: Result(*cell) for column, cell in cells.items()}
    for name in names:
        if name in found:
            continue
        found[name] = {column: check(name, column) for column in MODELS}
        if onnx:
            found[name]["ONNX"] = check_export(name)
        if rows is not None:
            cells = {column: [cell.kind, cell.line] for column, cell in found[name].items()}
            with rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps([name, cells]) + "\n")
        shown = ", ".join(f"{column}: {cell.kind}" for column, cell in found[name].items())
        lines = dict.fromkeys(cell.line for cell in found[name].values() if cell.kind == "fails")
        print(f"{name}: {shown}", *(f"    {line}" for line in lines), sep="\n", flush=True)
    return {name: found[name] for name in names}


def listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def page(found: dict[str, dict[str, Result]], skipped: dict[str, str]) -> str:
    """docs/encoders.md from the results."""
    whole = [
        name
        for name, row in found.items()
        if all(cell.kind in ("passes", "limited") for cell in row.values())
    ]
    causal = [name for name in whole if is_causal(tiny_encoder_config(name))]
    parts = [INTRODUCTION.format(version=transformers.__version__)]
    parts.append(f"## Every model passes: {len(whole)} architectures\n")
    parts.append(f"Causal ({len(causal)}): {listed(causal)}.\n")
    both = [name for name in whole if name not in causal]
    parts.append(f"Not causal ({len(both)}): {listed(both)}.\n")

    others = {name: row for name, row in found.items() if name not in whole}
    some = {n: row for n, row in others.items() if any(cell.kind != "refused" for cell in row.values())}
    if some:
        parts.append(f"## Some models pass: {len(some)} architectures\n")
        columns = next(iter(found.values()))
        parts.append("| architecture | " + " | ".join(columns) + " |\n|---" + "|---" * len(columns) + "|")
        for name, row in some.items():
            parts.append(f"| `{name}` | " + " | ".join(SIGNS[cell.kind] for cell in row.values()) + " |")
        parts.append("")
    parts.append("## Refused, before any data are read\n")
    lines: dict[str, list[str]] = defaultdict(list)
    for name, row in others.items():
        for column, cell in row.items():
            if cell.kind == "refused":
                general = re.sub(rf"'{re.escape(name)}'", "'…'", cell.line)
                where = "" if all(c.kind == "refused" for c in row.values()) else f" ({column})"
                lines[general].append(f"`{name}`{where}")
    for line, names in sorted(lines.items()):
        parts.append(f'- {", ".join(dict.fromkeys(names))}:\n  "{line}"')
    failures = {n: row for n, row in others.items() if any(cell.kind == "fails" for cell in row.values())}
    if failures:
        parts.append("\n## Failures\n")
        for name, row in failures.items():
            for line in dict.fromkeys(cell.line for cell in row.values() if cell.kind == "fails"):
                parts.append(f"- `{name}`: {line}")
    parts.append("\n## Known limits\n")
    limits: dict[str, list[str]] = defaultdict(list)
    for name, row in found.items():
        for title in dict.fromkeys(
            part.partition(":")[0]
            for cell in row.values()
            if cell.kind == "limited"
            for part in cell.line.split("; ")
        ):
            limits[title].append(name)
    explained = {
        "padding on the left": "Padding on the left changes the answers, as positions count from there. Pad on the "
        "right, as the tokenizers of these do",
        "long texts": "How far a long text is padded changes the answers, as above",
        "padding on the right": "How far a text is padded changes the answers; the model warns of it. Pad all texts to "
        "one length",
        "all tasks at once": "Tasks in one pass are padded to one length, which changes the answers as above",
        "gradients": "Some weights of the encoder are not used, such as those of a pooler that its class always has; "
        "DistributedDataParallel then needs `find_unused_parameters`",
    }
    for title, names in limits.items():
        parts.append(f"- {explained[title]}: {listed(names)}.")
    parts.append("\n## Not checked\n")
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, reason in skipped.items():
        reasons[reason].append(name)
    for reason, names in sorted(reasons.items()):
        parts.append(f"- {reason}: {listed(names)}.")
    return "\n".join(parts) + "\n"


def main(names: list[str]) -> int:
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    rows = Path(names.pop(names.index("--rows") + 1)) if "--rows" in names else None
    onnx = "--onnx" in names
    names = [name for name in names if name not in ("--rows", "--onnx")]
    unfit = {} if names else {name: reason for name in text_types() if (reason := why_not_built(name))}
    found = run(names or [name for name in text_types() if name not in unfit], rows, onnx)
    if not names:
        PAGE.write_text(page(found, skipped_types() | unfit), encoding="utf-8")
    return int(any(cell.kind == "fails" for row in found.values() for cell in row.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
