"""Recipes for a linear head on all layers of an encoder that starts from a linear probe; the encoder stays frozen, or
is tuned from there.

The module imports no library that takes seconds, because command lines read it.
"""

from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HOME

STATES_FOLDER = str(Path(HF_HOME) / "hf_layerfusion" / "states")
"""Folder of cached states where none is named, next to the Hub's cache."""

ALL_LAYERS: dict[str, Any] = {"pooling": "concat", "token_pooling": "mean"}
"""Settings of `BertWithPoolingModule` in both recipes."""

FROZEN_TRAINING: dict[str, Any] = {
    "freeze_encoder": True,
    "cache_frozen_states": STATES_FOLDER,
    "frozen_states_dtype": "float16",
    "init_from_probe": True,
    "learning_rate": 1e-5,
    "num_train_epochs": 3.0,
}
"""Options for a frozen encoder: the head takes small steps from the probe's weights."""

TUNED_TRAINING: dict[str, Any] = {
    "init_from_probe": True,
    "head_first_epochs": 1.0,
    "weight_interpolation": 0.5,
    "learning_rate": 1e-4,
    "num_train_epochs": 3.0,
}
"""Options for an encoder that is trained after the head has started from the probe and learned for an epoch (Kumar et
al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution"). The model lies halfway
between that start and the trained weights (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models")."""
