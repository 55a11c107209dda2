import multiprocessing
from multiprocessing.context import DefaultContext
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset

from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes import prepared_cache
from hf_layerfusion.recipes.data_preparation import encode_splits
from hf_layerfusion.recipes.prepared_cache import tokenization_key
from tests.tiny import tiny_tokenizer


def test_tokens_are_found_again_by_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(prepared_cache, "ROWS_OF_LARGE_SPLITS", 2)
    monkeypatch.setattr(prepared_cache, "worker_processes", lambda split: None)
    monkeypatch.setattr("hf_layerfusion.recipes.data_preparation.worker_processes", lambda split: None)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    calls = 0

    def tokens(texts: list[str], label: int = 0, **settings: Any) -> list[list[int]]:
        tokenizer = tiny_tokenizer()  # a new one, as in a new process

        def encode(batch: dict[str, list[str]]) -> Any:
            nonlocal calls
            calls += 1
            return tokenizer(batch["text"], truncation=True, **settings)

        # Built anew, so that nothing but the content is the same.
        split = Dataset.from_dict({"text": texts, "label": [label] * len(texts)})
        key = tokenization_key(tokenizer, ("text",), **settings)
        inputs = encode_splits({"train": split}, encode, 512, key)["train"]
        assert inputs["labels"][:] == [label] * len(texts)
        return list(inputs["input_ids"])

    texts = ["a good day", "so bad", "what a film"]
    first = tokens(texts, max_length=8)
    assert tokens(texts, max_length=8) == first and calls == 1
    assert tokens(texts, max_length=3) != first and calls == 2
    assert tokens([*texts[:2], "bad"], max_length=8) != first and calls == 3
    assert tokens(texts, label=1, max_length=8) == first and calls == 4
    assert len(list((tmp_path / "hf_layerfusion").iterdir())) == 4
    monkeypatch.setattr(datasets, "is_caching_enabled", lambda: False)
    assert tokens(texts, max_length=8) == first and calls == 5


def test_a_large_split_is_prepared_by_a_process_per_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared_cache, "ROWS_OF_LARGE_SPLITS", 2)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    split = Dataset.from_dict({"text": ["a", "b"]})
    assert prepared_cache.worker_processes(split) == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert prepared_cache.worker_processes(split) == 2
    assert prepared_cache.worker_processes(split.select([0])) is None


def test_asking_for_processes_leaves_their_start_method_to_the_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = DefaultContext(multiprocessing.get_context("fork"))
    monkeypatch.setattr(multiprocessing, "get_start_method", context.get_start_method)
    prepared_cache.worker_processes(Dataset.from_dict({"text": ["a"] * prepared_cache.ROWS_OF_LARGE_SPLITS}))
    context.set_start_method("spawn")  # raises if it has been set


def test_a_cache_that_cannot_be_written_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(prepared_cache, "ROWS_OF_LARGE_SPLITS", 1)
    monkeypatch.setattr("hf_layerfusion.recipes.data_preparation.worker_processes", lambda split: None)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")
    split = Dataset.from_dict({"text": ["a good day"]})
    with pytest.raises(
        UserError, match=r"^cache .*file \(environment variable HF_DATASETS_CACHE\): cannot be written"
    ):
        encode_splits({"train": split}, lambda batch: tiny_tokenizer()(batch["text"]), 512, "key")
