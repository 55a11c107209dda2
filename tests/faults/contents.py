"""Changed bytes in checkpoints, models and caches; hostile configurations; malformed files of texts."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from hf_layerfusion import BertForGRUFusionClassification, verify_saved
from hf_layerfusion.data.files import read_examples
from hf_layerfusion.ensembling.prediction_files import cached
from hf_layerfusion.errors import LOADING_ERRORS, UserError
from hf_layerfusion.training.checkpoints import verify_checkpoint, write_manifest
from hf_layerfusion.training.state_cache import StateCache
from tests.faults.rows import Row
from tests.faults.scripts import fresh

SMALL = {"fusion_hidden_size": 8, "downstream_hidden_size": 8, "dense_size": 8, "num_groups": 1}
HOSTILE: tuple[Any, ...] = (
    -1, 0, 10**9, 1e308, float("nan"), float("inf"), None, "", "x", [], {}, [[]], True, "../../etc", -0.5, 2.5,
)  # fmt: skip
TEXT_FILES = {
    "csv": "text,label\ngood day,positive\nbad night,negative\n",
    "tsv": "text\tlabel\ngood day\tpositive\nbad night\tnegative\n",
    "json": '[{"text": "good day", "label": "positive"}, {"text": "bad night", "label": "negative"}]',
    "jsonl": '{"text": "good day", "label": "positive"}\n{"text": "bad night", "label": "negative"}\n',
}


def flip(path: Path, rng: random.Random) -> None:
    """Changes one bit of a file."""
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def saved_model(folder: Path) -> Path:
    """A model of ours, saved as its users save it."""
    torch.manual_seed(0)
    model = BertForGRUFusionClassification.from_pretrained(
        folder.parent / "data" / "encoder", num_labels=2, **SMALL
    )
    model.save_pretrained(folder)
    return folder


def corruptions(row: Row, number: int, rng: random.Random, folder: Path, data: Path) -> None:
    """Flips a bit in a checkpoint, a saved model, a cache of states or of predictions: found, or silent."""
    model = saved_model(folder / "model")
    checkpoint = folder / "checkpoint"
    shutil.copytree(model, checkpoint, dirs_exist_ok=True)
    (checkpoint / "optimizer.pt").write_bytes(rng.randbytes(5_000))
    write_manifest(checkpoint)

    def refuses(check: Callable[[Path], object], place: Path) -> bool:
        copy = folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(place, copy)
        names = [path for path in sorted(copy.iterdir()) if path.stat().st_size]
        flip(rng.choice(names), rng)
        try:
            check(copy)
        except UserError:
            return True
        return False

    def state_is_found() -> bool:
        place = fresh(folder / "states")
        made = StateCache(place, {"of": "faults"}, 2, 8, torch.float32)
        states = torch.randn(3, 2, 5, 8)
        keys = [bytes([key]) * 16 for key in range(3)]
        made.check_room(15)
        made.write(keys, [5] * 3, iter(states))
        (file,) = made.folder.glob("*.states")
        flip(file, rng)
        again = StateCache(place, {"of": "faults"}, 2, 8, torch.float32)
        return bool(again.missing(keys)) and all(
            torch.equal(again[key], states[at]) for at, key in enumerate(keys) if key in again
        )

    def prediction_is_found() -> bool:
        place, values = fresh(folder / "predictions"), np.random.default_rng(0).random((20, 2), np.float32)
        cached(place, ["key"], lambda: values, values.shape)
        (file,) = place.glob("*.safetensors")
        flip(file, rng)
        return bool(np.array_equal(cached(place, ["key"], lambda: values, values.shape), values))

    kinds: tuple[Callable[[], bool], ...] = (
        lambda: refuses(verify_checkpoint, checkpoint),
        lambda: refuses(verify_saved, model),
        state_is_found,
        prediction_is_found,
    )
    for attempt in range(number):
        row.count("tried")
        row.count("found" if kinds[attempt % len(kinds)]() else "silent")


def hostile_configs(row: Row, number: int, rng: random.Random, folder: Path, data: Path) -> None:
    """Puts hostile values into the configuration of a saved model and loads it: refused by an error that says so,
    loaded with finite answers, or loaded with others."""
    model = saved_model(folder / "model")
    config = json.loads((model / "config.json").read_text())
    places = [(None, name) for name in config] + [
        ("encoder_config", name) for name in config["encoder_config"]
    ]
    ids = torch.arange(1, 7).view(1, 6)
    for _ in range(number):
        (part, name), value = rng.choice(places), rng.choice(HOSTILE)
        changed = json.loads(json.dumps(config))
        (changed if part is None else changed[part])[name] = value
        copy = folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(model, copy)
        (copy / "config.json").write_text(json.dumps(changed))
        row.count("tried")
        try:
            AutoConfig.from_pretrained(copy, trust_remote_code=False)
            loaded = AutoModelForSequenceClassification.from_pretrained(copy, trust_remote_code=False).eval()
            with torch.no_grad():
                finite = bool(loaded(input_ids=ids).logits.isfinite().all())
        except Exception as error:
            row.count("refused")
            if not isinstance(error, LOADING_ERRORS):
                row.counts.setdefault("refused by an error that is no ValueError", 0)
                row.counts["refused by an error that is no ValueError"] += 1
            continue
        row.count("loaded, answers finite" if finite else "wrong")
        if not finite:
            row.tell(f"{part or 'config'}.{name} = {value!r}: loaded, and its answers are not finite")


def malformed_inputs(row: Row, number: int, rng: random.Random, folder: Path, data: Path) -> None:
    """Damages files of texts: read by the documented rules, or refused in one line."""
    pieces = (
        b"\0",
        b'"',
        b"\xff",
        b"\r",
        b"\t",
        b",",
        b"\n\n",
        b"{",
        b"[" * 50_000,
        "\ud800".encode("utf-8", "replace"),
        b"",
    )
    place = fresh(folder / "texts")
    for _ in range(number):
        kind, text = rng.choice(list(TEXT_FILES.items()))
        content = bytearray(text.encode())
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(content) + 1)
            content[at : at + rng.randint(0, 4)] = rng.choice(pieces)
        path = place / f"texts.{kind}"
        path.write_bytes(content)
        row.count("tried")
        try:
            read_examples(path)
        except UserError as error:
            if "\n" in str(error):
                row.count("raw")
                row.tell(f"{kind}: a message of several lines: {str(error)[:200]!r}")
            else:
                row.count("refused in one line")
        except Exception as error:
            row.count("raw")
            row.tell(f"{kind} {bytes(content[:80])!r}: {type(error).__name__}: {error}"[:400])
        else:
            row.count("read")
