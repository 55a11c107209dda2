"""Small saved models of each kind, untrained, for demos."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from hf_layerfusion import BertWithPoolingModule, CerbertusForMultitask

LABELS = {0: "<b>bad</b>", 1: "fair", 2: "good"}
TASKS = {
    "mood": {"labels": ["sad", "happy"]},
    "same": {"labels": ["no", "yes"], "pair": True},
    "stars": {"problem_type": "regression"},
}


@pytest.fixture(scope="session")
def one_task(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: str) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "one_task"
    model = BertWithPoolingModule.from_pretrained(tiny_encoder_dir, pooling="attention", id2label=LABELS)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_encoder_dir).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def several_tasks(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: str) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "several_tasks"
    CerbertusForMultitask.from_pretrained(tiny_encoder_dir, num_task_layers=1, tasks=TASKS).save_pretrained(
        folder
    )
    AutoTokenizer.from_pretrained(tiny_encoder_dir).save_pretrained(folder)
    return folder
