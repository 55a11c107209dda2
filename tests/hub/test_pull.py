"""Tests of models from the Hub in new processes with empty caches: with the package, without it, by revision, and
offline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_layerfusion import BertForGRUFusionClassification
from tests.hub.client import Client, ClientError
from tests.hub.server import TOKEN, Hub
from tests.tiny import tiny_config, tiny_tokenizer

REPO = "org/grubert-share-3"
TEXTS = ["what a great day", "sad"]

PUSH = """
from transformers import AutoModelForSequenceClassification, AutoTokenizer
import hf_layerfusion

for number, folder in enumerate(folders):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.push_to_hub(repo, commit_message=f"version {number}")
    AutoTokenizer.from_pretrained(folder).push_to_hub(repo)
    if number == 0:
        from huggingface_hub import create_tag
        create_tag(repo, tag="v0")
"""
IMPORT = "import hf_layerfusion\n"
BLOCK = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_layerfusion":
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Blocker())
"""
PULL = """
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

batch = AutoTokenizer.from_pretrained(repo)(texts, padding=True, return_tensors="pt")
with torch.no_grad():
    result = {
        "fused": AutoModel.from_pretrained(repo, **options)(**batch).last_hidden_state.tolist(),
        "answers": pipeline("text-classification", repo, device="cpu", **options)(texts),
    }
    for revision in ("main", "v0"):
        model = AutoModelForSequenceClassification.from_pretrained(repo, revision=revision, **options)
        result[revision] = model(**batch).logits.tolist()
"""


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of one kind, `v0` and the one on main."""
    folders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = BertForGRUFusionClassification.config_class(
            encoder_config=tiny_config("bert", 3).to_dict(), num_groups=3, fusion_hidden_size=4,
            downstream_hidden_size=4, dense_size=0, id2label={0: "negative", 1: "positive"},
        )  # fmt: skip
        folders.append(tmp_path_factory.mktemp("version") / "grubert-share-3")
        BertForGRUFusionClassification(config).save_pretrained(folders[-1])
        tiny_tokenizer().save_pretrained(folders[-1])
    return folders


@pytest.fixture(scope="module")
def pushed(clients: dict[str, Client], hub: Hub, versions: list[Path]) -> str:
    clients["xet"].run(PUSH, folders=[str(folder) for folder in versions], repo=REPO)
    hub.repositories[REPO].private = True  # so that the token is needed for pulling too
    return REPO


@pytest.fixture(scope="module")
def expected(versions: list[Path]) -> dict[str, Any]:
    batch = tiny_tokenizer()(TEXTS, padding=True, return_tensors="pt")
    found: dict[str, Any] = {}
    with torch.no_grad():
        for name, folder in zip(("v0", "main"), versions, strict=True):
            model = BertForGRUFusionClassification.from_pretrained(folder)
            found[name] = model(**batch).logits
        found["fused"] = model.base_model(**batch).last_hidden_state
    found["answers"] = [model.config.id2label[label] for label in found["main"].argmax(1).tolist()]
    return found


@pytest.fixture(scope="module")
def pullers(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Client]]:
    """New processes with empty caches: one has imported the package, the other cannot."""
    started = {}
    for name, code in (("package", IMPORT), ("code", BLOCK)):
        started[name] = Client(hub, tmp_path_factory.mktemp(name) / "home")
        started[name].run(code)
    yield started
    for client in started.values():
        client.close()


def check(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name in ("main", "v0", "fused"):
        torch.testing.assert_close(torch.tensor(found[name]), expected[name], rtol=0, atol=1e-6)
    assert [answer["label"] for answer in found["answers"]] == expected["answers"]


def test_with_the_package(pullers: dict[str, Client], pushed: str, expected: dict[str, Any]) -> None:
    check(pullers["package"].run(PULL, repo=pushed, texts=TEXTS, options={}), expected)


def test_a_demo_by_the_models_name(
    pullers: dict[str, Client], pushed: str, expected: dict[str, Any], hub: Hub
) -> None:
    code = (
        "from hf_layerfusion.app.answers import Demo\n"
        "demo = Demo.from_pretrained(repo, use_cpu=True)\n"
        "result = [demo.answer(text).tasks[0].scores for text in texts]"
    )
    found = pullers["package"].run(code, repo=pushed, texts=TEXTS)
    torch.testing.assert_close(torch.tensor(found), expected["main"].softmax(dim=-1), rtol=0, atol=1e-5)
    with pytest.raises(ClientError, match="MODEL org/none: "):
        pullers["package"].run(code, repo="org/none", texts=TEXTS)


def test_without_it_and_then_offline(
    pullers: dict[str, Client], pushed: str, hub: Hub, expected: dict[str, Any]
) -> None:
    client, values = pullers["code"], {"repo": pushed, "texts": TEXTS}
    with pytest.raises(ClientError, match="trust_remote_code"):
        client.run(PULL, **values, options={})
    check(client.run(PULL, **values, options={"trust_remote_code": True}), expected)
    assert client.run("import sys; result = 'hf_layerfusion' in sys.modules") is False

    start = len(hub.requests)
    offline = Client(hub, client.home, token=None, HF_HUB_OFFLINE="1")
    offline.run(BLOCK)
    check(offline.run(PULL, **values, options={"trust_remote_code": True}), expected)
    offline.run(f"sys.meta_path.pop(0)\n{IMPORT}")
    check(offline.run(PULL, **values, options={}), expected)
    offline.close()
    assert len(hub.requests) == start


def test_who_has_no_rights_gets_no_model(pullers: dict[str, Client], pushed: str, hub: Hub) -> None:
    client = pullers["package"]
    code = "from transformers import AutoModel; AutoModel.from_pretrained(repo, token=token, cache_dir=cache)"
    for number, (repo, token) in enumerate(((pushed, "hf_nobodysToken"), ("org/none", TOKEN))):
        with pytest.raises(ClientError, match=repo):
            client.run(code, repo=repo, token=token, cache=f"cache-{number}")
    assert TOKEN not in client.everything


def test_a_download_that_is_cut_off_goes_on(pullers: dict[str, Client], pushed: str, hub: Hub) -> None:
    client = pullers["package"]
    hub.fail("download", cut=True)
    code = (
        "from huggingface_hub import hf_hub_download; "
        "result = hf_hub_download(repo, 'model.safetensors', cache_dir='cut')"
    )
    path = client.run(code, repo=pushed)
    assert {request.status for request in hub.asked("download")} >= {0, 200}
    assert (client.home / path).read_bytes() == hub.files(pushed)["model.safetensors"]
