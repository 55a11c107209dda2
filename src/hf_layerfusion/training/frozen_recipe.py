"""The recipe for a frozen encoder: a linear head on all of its layers, which starts from a linear probe.

It imports no library that takes seconds, because command lines read it.
"""

from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HOME

STATES_FOLDER = str(Path(HF_HOME) / "hf_layerfusion" / "states")
"""Folder of cached states where none is named, next to the Hub's cache."""

FROZEN_MODEL: dict[str, Any] = {"pooling": "concat", "token_pooling": "mean"}
"""Settings of `BertWithPoolingModule`."""

FROZEN_TRAINING: dict[str, Any] = {
    "freeze_encoder": True,
    "cache_frozen_states": STATES_FOLDER,
    "frozen_states_dtype": "float16",
    "init_from_probe": True,
    "learning_rate": 1e-5,
    "num_train_epochs": 3.0,
}
"""Options of the training, which takes small steps from the probe's weights."""
