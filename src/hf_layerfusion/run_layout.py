"""The layout of a run's output folder: a model repository at the top, everything about the run in `run/`.

| place | content |
|---|---|
| the top | weights, configuration, tokenizer, code, manifest of checksums and model card, or `ensemble.json` |
| `run/` | settings, results, predictions, figures, hashes of the texts, states of layers, the trials of a search |
| `checkpoint-N/`, `best-TASK/` | models of the same run, as the Trainer saves them |
| `seed-N/`, `fold-N/` | runs of their own, below the settings and the summary in the `run/` beside them |
| `members/`, `soup/` | the models of an ensemble, with the hashes of their texts in a `run/` of their own |

Earlier versions wrote the records to the top of the folder, and so does a prediction without training, whose folder
holds no model. **Whatever reads a record uses `find`**, which looks in `run/` and then at the top; whatever writes one
uses `records`.
"""

from collections.abc import Iterator
from pathlib import Path

RUN = "run"
"""The folder of the records, in the folder of a run."""

SETTINGS_FILE = "run.json"
RESULTS_FILE = "all_results.json"
CONFIG_FILE = "run.yaml"
START_FILE = "start.json"
PREDICTIONS_FILE = "predictions.csv"
LOGITS_FILE = "logits.csv"
LAYER_USE_FILE = "layer_use.json"
TRAINED_TEXTS_FILE = "trained_texts.npz"
TABLE_FILE = "table.csv"

PREDICTIONS = "predictions"
MISTAKES = "mistakes"
PLOTS = "plots"
LAYER_STATES = "layer_states"
SEARCH = "search"

_PARTS = ("seed-", "fold-", "checkpoint-", "best-")


def records(folder: str | Path) -> Path:
    """Return the folder to write the records of a run to; it need not exist yet."""
    return Path(folder) / RUN


def find(folder: str | Path, name: str) -> Path:
    """Return the path of a record: in `run/`, or at the top if it is there alone; in `run/` if it is nowhere."""
    place, earlier = records(folder) / name, Path(folder) / name
    return earlier if earlier.exists() and not place.exists() else place


def find_in_parts(folder: str | Path, part: str, name: str) -> dict[Path, Path]:
    """Return the records of this name in the parts of a run that have one, by the folder of the part.

    Args:
        folder: the folder of the run.
        part: pattern of the parts' names, such as `"seed-*"` or `"fold-*"`.
        name: name of the record.
    """
    found = {place: find(place, name) for place in sorted(Path(folder).glob(part))}
    return {place: path for place, path in found.items() if path.is_file()}


def run_of(model: str | Path) -> Iterator[Path]:
    """Yield the folders that may hold the records of a model: its own, and for a seed, a fold or a checkpoint those
    above it."""
    folder = Path(model).absolute()
    yield folder
    while folder.name.startswith(_PARTS):
        folder = folder.parent
        yield folder


def owner(record: Path) -> Path:
    """Return the folder of the run that a record belongs to."""
    folder = record.parent
    # A run of an earlier version may itself be called `run`.
    is_records = folder.name == RUN and not (folder / "config.json").exists()
    return folder.parent if is_records else folder


def figure(name: str) -> str:
    """Return the path of a figure relative to the model card."""
    return f"{RUN}/{PLOTS}/{name}"
