"""Tokenized data sets in the cache of datasets, found by their content, and the processes that prepare large ones."""

import hashlib
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import tokenizers
import transformers
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_layerfusion.data.arrow_tables import to_table

ROWS_OF_LARGE_SPLITS = 20_000
"""Number of rows from which a split is prepared by several processes and its tokens are cached."""


def worker_processes(split: Dataset) -> int | None:
    """Return the number of processes that prepare a split: for large ones a process per core, else None for this one.

    The processes of a distributed run on this machine share its cores. Where processes cannot be forked, there is
    only this one, as others would run the user's script again.
    """
    # `get_start_method()` alone would choose the method for the whole program; the first of all methods is the default.
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    if len(split) < ROWS_OF_LARGE_SPLITS or method != "fork":
        return None
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return cores if cores > 1 else None


def tokenization_key(
    tokenizer: PreTrainedTokenizerBase, columns: tuple[str, ...], **settings: Any
) -> str | None:
    """Return a string that determines the tokens of a text; None for tokenizers whose state is not known in full.

    Args:
        tokenizer: The tokenizer.
        columns: Names of the columns of texts.
        settings: Arguments of the tokenizer, and whatever else decides what becomes of a row.
    """
    if not tokenizer.is_fast or not type(tokenizer).__module__.startswith("transformers."):
        return None
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    # These two are set by each call.
    backend.pop("truncation", None)
    backend.pop("padding", None)
    sides = (tokenizer.padding_side, tokenizer.truncation_side, tokenizer.model_input_names)
    versions = (transformers.__version__, tokenizers.__version__, datasets.__version__)
    return json.dumps(
        [type(tokenizer).__name__, backend, *sides, columns, settings, versions], sort_keys=True
    )


def cached_by_content(split: Dataset, key: str | None) -> dict[str, Any]:
    """Return the arguments by which `Dataset.map` keeps its result in the cache of datasets, and finds it there.

    Args:
        split: The rows; all of their columns belong to the content.
        key: What the result depends on beside the rows; None caches nothing, as do small splits and
            `datasets.disable_caching`.
    """
    if key is None or len(split) < ROWS_OF_LARGE_SPLITS or not datasets.is_caching_enabled():
        return {}
    table = to_table(split).combine_chunks()
    digest = hashlib.sha256(key.encode())
    with pa.PythonFile(_Digest(digest), mode="w") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    folder = Path(datasets.config.HF_DATASETS_CACHE, "hf_layerfusion")
    folder.mkdir(parents=True, exist_ok=True)
    fingerprint = digest.hexdigest()[:32]
    return {"cache_file_name": str(folder / f"tokenized-{fingerprint}.arrow"), "new_fingerprint": fingerprint}


class _Digest:
    """File that only hashes what is written to it."""

    closed = False

    def __init__(self, digest: Any) -> None:
        self._digest = digest

    def write(self, data: Any) -> int:
        self._digest.update(data)
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass
