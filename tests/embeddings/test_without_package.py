"""Encoders of words where the package is not installed: by the code in their folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

from hf_layerfusion.embeddings.piece_encoders import pooled
from hf_layerfusion.modeling.configuration_static_embeddings import StaticEmbeddingsConfig
from hf_layerfusion.modeling.modeling_static_embeddings import StaticEmbeddingsModel
from tests.tiny import tiny_tokenizer
from tests.tiny_words import WORD_ENCODERS, saved

TEXTS = ["what a great day", "sad", "a movie"]

OPEN = r"""
import json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_layerfusion":
            raise ImportError("not installed")

sys.meta_path.insert(0, Blocker())
from transformers import AutoConfig, AutoModel, AutoTokenizer

texts, folders = json.loads(sys.argv[1])
found = []
for folder in folders:
    AutoConfig.from_pretrained(folder, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    found.append(model(**tokenizer(texts, padding=True, return_tensors="pt")).last_hidden_state.tolist())
print("\nstates:" + json.dumps(found))
"""


def test_every_encoder_opens_by_the_code_in_its_folder(tmp_path: Path) -> None:
    folders = [make(tmp_path / kind) for kind, make in WORD_ENCODERS.items()]
    # Static vectors of subwords, as model2vec's are, inside of another encoder.
    pieces = tiny_tokenizer()
    vectors = StaticEmbeddingsModel(StaticEmbeddingsConfig(vocab_size=len(pieces), hidden_size=4))
    folders.append(saved(pooled(vectors, pieces.backend_tokenizer.to_str(), None), tmp_path / "pieces"))
    done = subprocess.run(
        [sys.executable, "-c", OPEN, json.dumps([TEXTS, [str(folder) for folder in folders]])],
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.rpartition("states:")[2])
    for folder, states in zip(folders, found, strict=True):
        batch = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
        expected = AutoModel.from_pretrained(folder)(**batch).last_hidden_state
        torch.testing.assert_close(torch.tensor(states), expected, rtol=0, atol=1e-6)
