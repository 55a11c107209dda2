"""Tests of the release script as a whole: encoder and data from the tests' Hub, training, and the pushed models."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from huggingface_hub import ModelCard
from transformers import AutoModel

from tests.hub.client import ROOT, Client
from tests.hub.server import TOKEN, Hub
from tests.tiny import tiny_config, tiny_texts, tiny_tokenizer

# Two models are trained and published, and the code of each card is run.
pytestmark = pytest.mark.slow

RELEASE = """
import runpy, sys
sys.path.insert(0, root)
sys.argv = ["release.py", *options]
runpy.run_module("reproduction.train_releases", run_name="__main__")
"""
SETTINGS = {"num_train_epochs": 1, "use_cpu": True, "max_seq_length": 24}


def save(folder: Path, columns: tuple[str, ...], size: int, labels: list[str] | None, seed: int) -> None:
    """Save splits of a data set as on the Hub: its column names, -1 for withheld labels."""
    label = Value("float32") if labels is None else ClassLabel(names=labels)
    features = Features({**dict.fromkeys(columns, Value("string")), "label": label})
    for split, count in (("train", size), ("validation", 12), ("test", 12)):
        seed += 1
        texts = [text for text, _ in tiny_texts(count * len(columns), seed)]
        rows = {column: texts[place :: len(columns)] for place, column in enumerate(columns)}
        given = [float(row % 6) if labels is None else row % len(labels) for row in range(count)]
        kept_back = split == "test" and "glue" in folder.parts
        rows["label"] = [-1] * count if kept_back else given  # type: ignore[assignment]
        if split == "train" and "snli" in folder.parts:
            rows["label"][3] = -1  # type: ignore[call-overload]
        folder.mkdir(parents=True, exist_ok=True)
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working folder of the client, in which the public data sets' names are folders with small stand-ins."""
    home = tmp_path_factory.mktemp("release") / "home"
    save(home / "stanfordnlp" / "snli", ("premise", "hypothesis"), 48, ["yes", "maybe", "no"], 0)
    glue = {"sst2": ("sentence",), "qqp": ("question1", "question2"), "stsb": ("sentence1", "sentence2")}
    configs = []
    for name, columns in glue.items():
        save(home / "nyu-mll" / "glue" / name, columns, 40, None if name == "stsb" else ["no", "yes"], 10)
        files = [
            {"split": split, "path": f"{name}/{split}.parquet"} for split in ("train", "validation", "test")
        ]
        configs.append({"config_name": name, "data_files": files})
    front_matter = f"---\nconfigs: {json.dumps(configs)}\n---\n"
    (home / "nyu-mll" / "glue" / "README.md").write_text(front_matter)
    return home


@pytest.fixture(scope="module")
def client(hub: Hub, home: Path) -> Iterator[Client]:
    started = Client(hub, home)
    yield started
    started.close()


@pytest.fixture(scope="module")
def encoder(client: Client, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny encoder on the Hub, with a licence."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    AutoModel.from_config(tiny_config("bert", num_hidden_layers=3)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# tiny\n")
    client.run(
        "from hf_layerfusion.hub.publish import publish; publish(folder, 'org/tiny')", folder=str(folder)
    )
    return "org/tiny"


def test_models_are_trained_and_published_once(client: Client, hub: Hub, home: Path, encoder: str) -> None:
    options = [
        "--releases", "bert-lstm-tiny", "cerbertus-2-tiny", "--encoders", f"tiny={encoder}",
        "--settings", json.dumps(SETTINGS), "--push_to_hub", "True", "--organization", "org",
    ]  # fmt: skip
    client.run(RELEASE, options=options, root=str(ROOT))
    for name, data in (("bert-lstm-tiny", "stanfordnlp/snli"), ("cerbertus-2-tiny", "nyu-mll/glue")):
        assert f"outputs/{name}\n" in client.output
        files = hub.files(f"org/{name}")
        assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= files.keys()
        assert any(file.startswith("modeling_") for file in files)
        assert not any(TOKEN.encode() in content for content in files.values())
        card = ModelCard(files["README.md"].decode())
        assert card.data.license == "mit"
        assert card.data.base_model == encoder
        assert f'model="org/{name}"' in card.text and "Known defects" in card.text
        measured = {(result.dataset_name, result.dataset_split) for result in card.data.eval_results}
        tasks = ["sst2", "qqp", "stsb"] if name.startswith("cerbertus") else [data]
        assert {(task, "test") for task in tasks} <= measured

    results = home / "outputs" / "bert-lstm-tiny" / "run" / "all_results.json"
    written, commit = results.stat().st_mtime_ns, hub.repositories["org/bert-lstm-tiny"].branches["main"]
    client.run(RELEASE, options=options, root=str(ROOT))
    assert client.output.count("finished before") == 2
    assert results.stat().st_mtime_ns == written
    assert hub.repositories["org/bert-lstm-tiny"].branches["main"] == commit


@pytest.mark.parametrize("name", ["bert-lstm-tiny", "cerbertus-2-tiny"])
def test_the_code_of_a_published_card_runs(client: Client, hub: Hub, name: str) -> None:
    """As a reader would copy it, the blocks in their order, without being asked for the code that it trusts."""
    card = hub.files(f"org/{name}")["README.md"].decode()
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(blocks) == (3 if name.startswith("bert") else 5)
    for block in blocks:
        client.run(block)
    assert client.run("result = list(fused.shape)")[0] == 1
    printed = client.run("result = classifier.model.config.model_type")
    assert printed in ("layer_pooling", "cerbertus")
