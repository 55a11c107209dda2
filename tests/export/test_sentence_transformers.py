from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from tests.modeling.cases import build
from tests.tiny import tiny_tokenizer

TEXTS = ["a good day", "what an awful thing to do on such a day", "sad"]


def test_the_recipe_pools_fused_embeddings_and_is_saved(tmp_path: Path) -> None:
    # Imported here, as it takes a second of every process that collects the tests.
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder = str(tmp_path / "model")
    build("share-gru").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)

    # The two lines of docs/export.md.
    encoder = Transformer(folder)
    model = SentenceTransformer(modules=[encoder, Pooling(encoder.auto_model.fuser.output_size)])

    found = model.encode(TEXTS)
    batch = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    real = batch["attention_mask"].unsqueeze(-1)
    with torch.no_grad():
        fused = AutoModel.from_pretrained(folder)(**batch).last_hidden_state
    expected = (fused * real).sum(dim=1) / real.sum(dim=1)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-6)
    assert model.get_embedding_dimension() == expected.shape[1] == 24  # two groups of 2 x 6 units

    model.save(str(tmp_path / "saved"))
    assert np.array_equal(SentenceTransformer(str(tmp_path / "saved")).encode(TEXTS), found)
