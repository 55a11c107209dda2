"""Effect of `normalize_layers` on fusers over a frozen pre-norm encoder: accuracy with and without, over seeds.

    python benchmarks/normalization_effect.py TRAIN.csv DEV.csv

A small encoder is trained on the texts first, for the given number of steps: a decoder (Qwen3) by next tokens, or
ModernBERT by masked tokens. Then each fuser and its head are trained on the encoder's stored states. The files have the
columns `text` and `label`.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import torch
from scipy.stats import ttest_rel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from hf_layerfusion import (
    BertForGRUFusionClassification,
    BertWithPoolingModule,
    GRUFusionConfig,
    LayerPoolingConfig,
)

DEPTH, WIDTH, LENGTH, VOCABULARY = 6, 128, 32, 4000
PAD, MASK = 0, 2
FUSERS: dict[str, dict[str, Any]] = {
    "mean": {"pooling": "mean", "token_pooling": "mean"},
    "scalar_mix": {"pooling": "scalar_mix", "token_pooling": "mean"},
    "attention": {"pooling": "attention", "token_pooling": "mean"},
    "lstm": {"pooling": "lstm", "token_pooling": "mean"},
    "concat (standardized)": {"pooling": "concat", "token_pooling": "mean"},
    "GRUBERT share-3": {"num_groups": 3, "fusion_hidden_size": 32, "downstream_hidden_size": 32},
}


def read(path: Path, count: int) -> tuple[list[str], torch.Tensor]:
    """Return the first texts of a file and their labels."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:count]
    return [row["text"] for row in rows], torch.tensor([int(row["label"]) for row in rows])


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Return a WordPiece tokenizer of the texts, which cuts and pads to `LENGTH`."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[MASK]"]
    tokenizer.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special)
    )
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(pad_id=PAD, length=LENGTH)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ids and the attention mask of texts, `[N, LENGTH]` each."""
    found = tokenizer.encode_batch(texts)
    return torch.tensor([each.ids for each in found]), torch.tensor([each.attention_mask for each in found])


def train_encoder(name: str, ids: torch.Tensor, mask: torch.Tensor, steps: int) -> Any:
    """Return a small encoder that was trained on the texts by its own objective."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": DEPTH,
        "num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": PAD,
    }  # fmt: skip
    if name == "qwen3":
        config = AutoConfig.for_model(name, **sizes, num_key_value_heads=4, head_dim=32, use_cache=False)
        model = AutoModelForCausalLM.from_config(config)
    else:
        ends = {"cls_token_id": PAD, "sep_token_id": PAD, "bos_token_id": PAD, "eos_token_id": PAD}
        config = AutoConfig.for_model(name, **sizes, **ends, local_attention=16)
        model = AutoModelForMaskedLM.from_config(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    began = time.time()
    for _step in range(steps):
        rows = torch.randint(len(ids), (64,))
        given, labels = ids[rows].clone(), ids[rows].masked_fill(mask[rows] == 0, -100)
        if name != "qwen3":
            hidden = (torch.rand(given.shape) < 0.15) & (mask[rows] == 1)
            labels = labels.masked_fill(~hidden, -100)
            given[hidden] = MASK
        loss = model(input_ids=given, attention_mask=mask[rows], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    print(f"{name}: {steps} steps in {time.time() - began:.0f} s, loss {loss.item():.2f}", flush=True)
    return model.base_model.eval()


def build(encoder: Any, settings: dict[str, Any], normalize: bool, seed: int) -> Any:
    """Return a fuser with its head around the encoder."""
    torch.manual_seed(seed)
    common = {"encoder_config": encoder.config, "num_labels": 2, "normalize_layers": normalize}
    if "pooling" in settings:
        return BertWithPoolingModule(LayerPoolingConfig(**common, **settings), encoder=encoder)
    return BertForGRUFusionClassification(GRUFusionConfig(**common, **settings), encoder=encoder)


@torch.no_grad()
def stored_states(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the states that a model reads of its encoder, `[N, R, T, H]`."""
    model.eval()
    parts = [model.model.read_states(*batch) for batch in zip(ids.split(256), mask.split(256), strict=True)]
    return torch.cat(parts)


def train_head(model: Any, data: list[tuple[torch.Tensor, ...]], seed: int, epochs: int) -> float:
    """Train fuser and head on stored states, and return the accuracy on the second data set."""
    model.model.encoder.requires_grad_(False)
    (states, mask, labels), (dev_states, dev_mask, dev_labels) = data
    if hasattr(model.model.fuser, "standardize"):
        vectors = model.model.fuser.vectors(list(states.unbind(1)), None)
        model.model.fuser.standardize(vectors.mean(0), vectors.std(0))
    torch.manual_seed(seed)
    model.train()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    every_token = model.model.state_spec.tokens == "all"
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(32):
            here = mask[rows] if every_token else None
            logits = model(encoder_states=states[rows], attention_mask=here).logits
            optimizer.zero_grad()
            F.cross_entropy(logits, labels[rows]).backward()
            optimizer.step()
    model.eval()
    right = 0
    with torch.no_grad():
        for rows in torch.arange(len(dev_labels)).split(256):
            here = dev_mask[rows] if every_token else None
            logits = model(encoder_states=dev_states[rows], attention_mask=here).logits
            right += int((logits.argmax(-1) == dev_labels[rows]).sum())
    return 100 * right / len(dev_labels)


def main() -> None:
    """Print the accuracies of each encoder and fuser."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("dev", type=Path)
    parser.add_argument("--encoders", nargs="+", default=["qwen3", "modernbert"])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=2000)
    arguments = parser.parse_args()
    texts, labels = read(arguments.train, 40_000)
    dev_texts, dev_labels = read(arguments.dev, 2500)
    tokenizer = train_tokenizer(texts)
    ids, mask = encode(tokenizer, texts)
    dev = encode(tokenizer, dev_texts)
    count = arguments.texts
    for name in arguments.encoders:
        encoder = train_encoder(name, ids, mask, arguments.steps)
        with torch.no_grad():
            shown = encoder(input_ids=ids[:64], attention_mask=mask[:64], output_hidden_states=True)
        norms = [state[mask[:64] == 1].norm(dim=-1).mean().item() for state in shown.hidden_states[1:]]
        print("    mean norm of the states of layers 1 to L:", " ".join(f"{norm:.1f}" for norm in norms))
        stored: dict[tuple[bool, bool], Any] = {}  # every pooling reads the same vectors
        for title, settings in FUSERS.items():
            accuracies: dict[bool, list[float]] = {}
            for normalize in (False, True):
                key = ("pooling" in settings, normalize)
                if key not in stored:
                    reader = build(encoder, settings, normalize, 0)
                    stored[key] = [
                        (stored_states(reader, ids[:count], mask[:count]), mask[:count], labels[:count]),
                        (stored_states(reader, *dev), dev[1], dev_labels),
                    ]
                data = stored[key]
                epochs = 10 if "pooling" in settings else 2
                accuracies[normalize] = [
                    train_head(build(encoder, settings, normalize, seed), data, seed, epochs)
                    for seed in range(arguments.seeds)
                ]
            before, after = (torch.tensor(accuracies[value]) for value in (False, True))
            p = ttest_rel(after.numpy(), before.numpy()).pvalue
            print(
                f"    {title}: {before.mean():.2f} ± {before.std():.2f} without, {after.mean():.2f} ± "
                f"{after.std():.2f} with; difference {(after - before).mean():+.2f}, p = {p:.3f} "
                f"({arguments.seeds} seeds)",
                flush=True,
            )


if __name__ == "__main__":
    main()
