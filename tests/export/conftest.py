"""Exports that several tests look at: each takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hf_layerfusion.export import export_onnx
from tests.modeling import multitask_cases
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="session")
def siamese(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A CerBERTus model, and the folder of the graph of its task of siamese pairs."""
    torch.manual_seed(0)
    model = multitask_cases.build(num_task_layers=1)
    folder = tmp_path_factory.mktemp("siamese") / "onnx"
    export_onnx(model.task("sts"), tiny_tokenizer(), folder)
    return model, folder
