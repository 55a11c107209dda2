"""Tests of pulls from a failing Hub: each succeeds or gives one line, nothing incomplete is used, and repeating it
helps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version

from hf_layerfusion import BertForGRUFusionClassification, Ensemble, add_adapters
from tests.hub.client import Client, ClientError
from tests.hub.repositories import LARGE, File, Repository
from tests.hub.server import Hub
from tests.tiny import tiny_config, tiny_tokenizer

TEXT = "what a great day"

# Each verb gives the labels and what the model answers, so that a mixture of two versions is seen.
SETUP = """
import itertools, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from huggingface_hub import constants, snapshot_download
from hf_layerfusion import BertForGRUFusionClassification, CerbertusForMultitask, Ensemble, load_adapter_model
from hf_layerfusion import verify_saved
from hf_layerfusion.recipes import model_setup as models
from hf_layerfusion.recipes.recipe_arguments import ModelArguments
from hf_layerfusion.hub.encoder import encoder_license

torch.set_num_threads(1)
IDS = {"input_ids": torch.tensor([[2, 5, 6, 7, 3]])}

@torch.no_grad()
def answer(model):
    model.eval()
    return [list(model.config.id2label.values()), model(**IDS).logits.flatten().tolist()]

def auto(repo, cache):
    return answer(AutoModelForSequenceClassification.from_pretrained(repo, cache_dir=cache))

def own_class(repo, cache):
    return answer(BertForGRUFusionClassification.from_pretrained(repo, cache_dir=cache))

def script(repo, cache):
    arguments = ModelArguments(model_name_or_path=repo, cache_dir=cache)
    models.load_tokenizer(arguments)
    return str(models.loading_options(arguments)["revision"])

def ensemble(repo, cache):
    found = Ensemble.from_pretrained(repo)
    return [list(found.tasks["default"].labels), found.predict("default", [("what a great day",)]).tolist()]

def adapter(repo, cache):
    return answer(load_adapter_model(repo))

def licence(repo, cache):
    return encoder_license(repo)
"""
CALL = "constants.HF_HUB_CACHE = cache; result = {verb}(repo, cache)"


def put(hub: Hub, repo: str, folder: Path, message: str = "first") -> None:
    """Commit a folder to a repository, which is created if necessary."""
    repository = hub.repositories.setdefault(repo, Repository(repo))
    files: dict[str, File | None] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            large = path.name.endswith(LARGE)
            file = File(path.read_bytes(), is_large=large)
            if large:
                hub.large_files[file.oid] = file.content
            files[path.relative_to(folder).as_posix()] = file
    repository.commit("main", message, files)


def model(labels: tuple[str, str], seed: int) -> Any:
    torch.manual_seed(seed)
    return BertForGRUFusionClassification(
        BertForGRUFusionClassification.config_class(
            encoder_config=tiny_config("bert", 3).to_dict(), num_groups=3, fusion_hidden_size=4,
            downstream_hidden_size=4, dense_size=0, id2label=dict(enumerate(labels)),
        )
    ).eval()  # fmt: skip


@torch.no_grad()
def answers(found: Any) -> list[Any]:
    ids = torch.tensor([[2, 5, 6, 7, 3]])
    return [list(found.config.id2label.values()), found(input_ids=ids).logits.flatten().tolist()]


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two versions of a model that differ in labels and weights."""
    folders = []
    for seed, labels in enumerate((("no", "yes"), ("bad", "good"))):
        folders.append(tmp_path_factory.mktemp("version"))
        model(labels, seed).save_pretrained(folders[-1])
        tiny_tokenizer().save_pretrained(folders[-1])
        (folders[-1] / "README.md").write_text("---\nlicense: mit\n---\n# model\n")
    return folders


@pytest.fixture(scope="module")
def sources(
    hub: Hub, versions: list[Path], tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: str
) -> dict[str, str]:
    """A repository for each verb."""
    top = tmp_path_factory.mktemp("sources")
    put(hub, "faults/model", versions[0])
    put(hub, "faults/encoder", Path(tiny_encoder_dir))
    Ensemble.of([str(versions[0])]).save_pretrained(top / "ensemble", carry_members=True)
    put(hub, "faults/ensemble", top / "ensemble")
    adapted = add_adapters(BertForGRUFusionClassification.from_pretrained(tiny_encoder_dir, num_groups=2))
    adapted.peft_config["default"].base_model_name_or_path = "faults/encoder"
    adapted.save_pretrained(str(top / "adapter"))
    put(hub, "faults/adapter", top / "adapter")
    return {
        "auto": "faults/model", "own_class": "faults/model", "script": "faults/model",
        "licence": "faults/model", "ensemble": "faults/ensemble", "adapter": "faults/adapter",
    }  # fmt: skip


@pytest.fixture(scope="module")
def puller(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A process that waits at most a second for a body."""
    client = Client(hub, tmp_path_factory.mktemp("puller") / "home", HF_HUB_DOWNLOAD_TIMEOUT="1")
    client.run(SETUP)
    yield client
    client.close()


@pytest.fixture(autouse=True)
def healed(hub: Hub) -> Iterator[None]:
    yield
    hub.heal()


FAULTS: dict[str, dict[str, Any]] = {
    "cut": {"cut": True},
    "lost": {"lose_answer": True},
    "401": {"status": 401},
    "403": {"status": 403},
    "404": {"status": 404},
    "429": {"status": 429, "headers": {"Retry-After": "1"}},
    "500": {"status": 500},
    "503": {"status": 503},
    "slow": {"seconds": 2.5},
}
VERBS = ("own_class", "script", "ensemble", "adapter", "licence")
ENDPOINTS = ("info", "resolve", "download")


def outcome(puller: Client, call: str, repo: str, cache: str) -> tuple[Any, ClientError | None]:
    """Return the result of a call, or its error."""
    try:
        return puller.run(call, repo=repo, cache=cache), None
    except ClientError as error:
        return None, error


@pytest.mark.parametrize("verb", VERBS)
def test_a_fault_at_each_request_is_survived_or_one_line_and_trying_again_helps(
    verb: str, puller: Client, hub: Hub, sources: dict[str, str], tmp_path: Path
) -> None:
    repo, call = sources[verb], CALL.format(verb=verb)
    expected = puller.run(call, repo=repo, cache=str(tmp_path / "whole"))
    for endpoint in ENDPOINTS:
        if verb == "licence" and endpoint != "resolve":
            continue
        for name in FAULTS if verb == "own_class" else ("cut", "404"):
            fault = FAULTS[name]
            hub.fail(endpoint, **fault)
            cache = str(tmp_path / f"{endpoint}-{name}")
            found, refusal = outcome(puller, call, repo, cache)
            if refusal is None:
                # A licence that cannot be had is left out of the card.
                assert found == expected or (verb == "licence" and found is None), (endpoint, name)
            elif verb != "own_class":  # which is transformers' own method, with its own errors
                assert refusal.kind == "UserError" and "\n" not in str(refusal), (
                    endpoint,
                    name,
                    str(refusal),
                )
            hub.heal()
            puller.run("models._resolved.cache_clear()")
            assert puller.run(call, repo=repo, cache=cache) == expected, (endpoint, name)


@pytest.mark.parametrize("verb", ["script", "ensemble", "adapter"])
def test_a_connection_that_is_cut_at_any_request_is_survived_or_one_line(
    verb: str, puller: Client, hub: Hub, sources: dict[str, str], tmp_path: Path
) -> None:
    repo, call = sources[verb], CALL.format(verb=verb)
    start = len(hub.requests)
    expected = puller.run(call, repo=repo, cache=str(tmp_path / "whole"))
    requests = len(hub.requests) - start
    # Of an ensemble and an adapter every tenth, and the last, which are those for the weights.
    for number in (
        range(requests) if verb == "script" else [*range(0, requests - 3, 10), *range(requests - 3, requests)]
    ):
        hub.heal()
        hub.fail("any", lose_answer=True, after=number)
        puller.run("models._resolved.cache_clear()")
        found, refusal = outcome(puller, call, repo, str(tmp_path / str(number)))
        if refusal is None:
            assert found == expected, number
        else:
            assert refusal.kind == "UserError" and "\n" not in str(refusal), (
                number,
                refusal.kind,
                str(refusal),
            )


def test_an_altered_download_is_found_by_the_manifest(
    puller: Client, hub: Hub, sources: dict[str, str], tmp_path: Path
) -> None:
    code = "result = verify_saved(snapshot_download(repo, cache_dir=cache)).files"
    assert puller.run(code, repo="faults/model", cache=str(tmp_path / "whole")) == 3
    hub.fail("download", alter=True)
    with pytest.raises(ClientError, match=r"model\.safetensors has changed since it was saved") as caught:
        puller.run(code, repo="faults/model", cache=str(tmp_path / "altered"))
    assert caught.value.kind == "UserError"
    # The member of an ensemble is compared whenever it is opened.
    hub.fail("download", alter=True)
    with pytest.raises(ClientError, match=r"has changed since it was added"):
        puller.run(CALL.format(verb="ensemble"), repo="faults/ensemble", cache=str(tmp_path / "member"))


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"), reason="transformers resolves no revision"
)
@pytest.mark.parametrize("verb", ["own_class", "auto", "ensemble"])
def test_a_repository_that_changes_between_two_files_gives_one_of_both_versions(
    verb: str, puller: Client, hub: Hub, versions: list[Path], tmp_path: Path
) -> None:
    expected = [answers(BertForGRUFusionClassification.from_pretrained(folder)) for folder in versions]
    folders = list(versions)
    if verb == "ensemble":
        folders = [tmp_path / "one", tmp_path / "two"]
        for source, folder in zip(versions, folders, strict=True):
            Ensemble.of([str(source)]).save_pretrained(folder, carry_members=True)
    for number, endpoint in enumerate(("info", "resolve", "resolve", "resolve", "download")):
        repo = f"moving/{verb}-{number}"
        put(hub, repo, folders[0])
        for _ in range(number if endpoint == "resolve" else 1):
            hub.then(endpoint, lambda: None)
        hub.then(endpoint, lambda repo=repo: put(hub, repo, folders[1], "second"))
        found = puller.run(CALL.format(verb=verb), repo=repo, cache=str(tmp_path / f"cache-{number}"))
        hub.heal()
        if verb == "ensemble":
            assert found[0] in (["no", "yes"], ["bad", "good"])
        else:
            (same,) = [each for each in expected if each[0] == found[0]]
            assert found[1] == pytest.approx(same[1], abs=1e-6), (endpoint, number)


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"), reason="transformers resolves no revision"
)
def test_a_branch_that_moves_during_a_run_changes_nothing_of_the_run(
    puller: Client, hub: Hub, versions: list[Path], tmp_path: Path
) -> None:
    code = """
arguments = ModelArguments(model_name_or_path=repo, cache_dir=cache)
model = BertForGRUFusionClassification.from_pretrained(repo, **models.loading_options(arguments))
result = answer(model)
"""
    put(hub, "moving/run", versions[0])
    first = puller.run(code, repo="moving/run", cache=str(tmp_path))
    put(hub, "moving/run", versions[1], "second")
    assert puller.run(code, repo="moving/run", cache=str(tmp_path)) == first
    puller.run("models._resolved.cache_clear()")  # as another run would have it
    assert puller.run(code, repo="moving/run", cache=str(tmp_path))[0] == ["bad", "good"]
