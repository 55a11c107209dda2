"""Tests of pushes over real HTTP, by git-lfs and by Xet: what arrives, what never does, and every failure."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from hf_layerfusion.hub.publish import files_to_push
from tests.hub.client import Client, ClientError
from tests.hub.server import TOKEN, Hub

PUBLISH = "from hf_layerfusion.hub.publish import publish; result = publish(folder, repo, **options)"

PUSHED = {
    "config.json": b"{}",
    "modeling_gru_fusion.py": b"from .heads import Head\n",
    "run/plots/training_curves.png": b"\x89PNG" * 100,
    "training_args.json": b'{"hub_token": "<HUB_TOKEN>"}',
    "run/run.json": b"{}",
    "run/all_results.json": b"{}",
    "run/trained_texts.npz": b"PK",
    "members/01-first/model.safetensors": os.urandom(2_000),
}
LEFT = (
    "training_args.bin", "checkpoint-4/model.safetensors", "checkpoint-4/optimizer.pt", "optimizer.pt", "old.pkl",
    "_push-checkpoint-4/config.json", ".env", "plots/.half.png", "predictions.csv", "predictions/mood-test.csv",
    "mistakes/mood.csv", "logits.csv", "logits-validation.csv", "members/01-first/training_args.bin",
    "members/01-first/predictions.csv", "members/01-first/mistakes/mood.csv", "members/01-first/.env",
    "members/01-first/Checkpoint-2/config.json", "members/01-first/_push-1/a.json", "a/b/search/study.db",
    "Predictions.CSV", "LOGITS-test.csv", "Optimizer.PT", "SEARCH/study.db", ".ENV", ".git/config", "a/.Secret/key",
)  # fmt: skip

LINKS = {
    "notes.txt": "outside/secret.txt",
    "data": "outside",
    "gone.txt": "outside/gone.txt",
    "plots/again.png": "outputs/grubert/plots/training_curves.png",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder with unique weights, so that no store has them already."""
    folder = tmp_path / "outputs" / "grubert"
    files = {**PUSHED, "model.safetensors": os.urandom(20_000), **dict.fromkeys(LEFT, b"never")}
    files["README.md"] = (
        f'---\ntags:\n- a\n---\n# grubert\n\npipeline("grubert", model="{folder}")\n'.encode()
    )
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_bytes(b"secret")
    for name, target in LINKS.items():
        (folder / name).symlink_to(tmp_path / target)
    return folder


@pytest.fixture
def repo(request: pytest.FixtureRequest) -> str:
    return f"org/{hashlib.sha1(request.node.nodeid.encode()).hexdigest()[:12]}"


def digests(folder: Path) -> dict[str, str]:
    """Return the hash of every file but the card, which names the repository."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "README.md"
    }


def test_what_arrives_and_what_never_does(client: Client, hub: Hub, folder: Path, repo: str) -> None:
    before = digests(folder)
    address = client.run(PUBLISH, folder=folder, repo=repo, options={})
    found = hub.files(repo)
    assert address == f"{hub.url}/{repo}/commit/{hub.repositories[repo].branches['main']}"
    assert found.keys() == {*PUSHED, "model.safetensors", "README.md"}
    assert all(found[name] == (folder / name).read_bytes() for name in found)
    assert f'pipeline("grubert", model="{repo}")' in found["README.md"].decode()
    assert digests(folder) == before


def test_what_is_pushed_is_listed_without_the_hub(folder: Path, tmp_path: Path) -> None:
    assert files_to_push(folder) == sorted({*PUSHED, "model.safetensors", "README.md"})
    assert files_to_push(folder, ()) == sorted({*PUSHED, *LEFT, "model.safetensors", "README.md"})
    (tmp_path / "link").symlink_to(folder)
    assert files_to_push(tmp_path / "link") == files_to_push(folder)
    assert files_to_push(tmp_path / "none") == []


def test_nothing_to_push_and_a_card_that_is_a_link(lfs_client: Client, tmp_path: Path, repo: str) -> None:
    (tmp_path / "elsewhere.md").write_text(f'model="{tmp_path / "run"}"')
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "README.md").symlink_to(tmp_path / "elsewhere.md")
    with pytest.raises(
        ClientError, match="must contain files to push, found only files that are never pushed"
    ):
        lfs_client.run(PUBLISH, folder=tmp_path / "run", repo=repo, options={})
    assert (tmp_path / "elsewhere.md").read_text() == f'model="{tmp_path / "run"}"'


def test_both_ways_of_uploading_were_taken(
    clients: dict[str, Client], hub: Hub, folder: Path, repo: str
) -> None:
    for name, taken, other in (("xet", "xorb", "upload"), ("lfs", "upload", "xorb")):
        (folder / "model.safetensors").write_bytes(os.urandom(10_000))
        start = len(hub.requests)
        clients[name].run(PUBLISH, folder=folder, repo=f"{repo}-{name}", options={})
        endpoints = {request.endpoint for request in hub.requests[start:]}
        assert taken in endpoints and other not in endpoints


def test_pushing_again_makes_no_commit(client: Client, hub: Hub, folder: Path, repo: str) -> None:
    for _ in range(2):
        client.run(PUBLISH, folder=folder, repo=repo, options={})
    assert len(hub.repositories[repo].commits) == 2  # the first one is the repository's own


def test_a_branch_and_privacy(lfs_client: Client, hub: Hub, folder: Path, repo: str) -> None:
    lfs_client.run(PUBLISH, folder=folder, repo=repo, options={"revision": "v2", "private": True})
    assert "model.safetensors" in hub.files(repo, "v2")
    assert hub.files(repo) == {}
    assert hub.repositories[repo].private


FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("create", {"status": 401}, "401.*hf auth login"),
    ("create", {"status": 403}, "403.*has no write access"),
    ("create", {"status": 404}, "404.*check their names"),
    ("create", {"status": 409}, "cannot be opened for pushing"),
    ("create", {"status": 429, "headers": {"Retry-After": "7"}}, "429.*try again in 7 s"),
    ("create", {"status": 500}, "500.*the Hub failed"),
    ("create", {"cut": True}, "cannot be opened for pushing: RemoteProtocolError"),
    ("create", {"lose_answer": True}, "cannot be opened for pushing: RemoteProtocolError"),
    ("branch", {"status": 403}, "403.*has no write access"),
    ("preupload", {"status": 403}, "403.*has no write access"),
    ("commit", {"status": 401}, "401.*hf auth login"),
    ("commit", {"status": 403}, "403.*has no write access"),
    ("commit", {"status": 404}, "404.*check their names"),
    ("commit", {"status": 409}, "409.*try again"),
    ("commit", {"status": 412}, "412.*has changed in the meantime"),
]
# Without Xet the client asks for no commit twice; with it, it does, after a second.
LFS_FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("batch", {"status": 403}, "403.*has no write access"),
    ("commit", {"status": 429, "headers": {"Retry-After": "7"}}, "429.*try again in 7 s"),
    ("commit", {"status": 500}, "500.*the Hub failed"),
    ("commit", {"cut": True}, "failed: RemoteProtocolError"),
    ("commit", {"lose_answer": True}, "failed: RemoteProtocolError"),
]
XET_FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("xet_token", {"status": 403}, "403.*has no write access"),
    ("shard", {"status": 401}, "401.*hf auth login"),
]
CASES = [
    *[("xet", *fault) for fault in FAULTS + XET_FAULTS],
    *[("lfs", *fault) for fault in FAULTS + LFS_FAULTS],
]


@pytest.mark.parametrize(
    ("way", "endpoint", "fault", "message"),
    CASES,
    ids=[f"{way}-{name}-{fault}" for way, name, fault, _ in CASES],
)
def test_a_failure_says_what_to_do_and_the_same_call_succeeds(
    way: str, endpoint: str, fault: dict[str, Any], message: str, clients: dict[str, Client], hub: Hub,
    folder: Path, repo: str,
) -> None:  # fmt: skip
    before = digests(folder)
    hub.fail(endpoint, **fault)
    with pytest.raises(ClientError, match=message) as caught:
        clients[way].run(PUBLISH, folder=folder, repo=repo, options={})
    assert caught.value.kind == "PushError"
    assert "\n" not in str(caught.value)
    assert repo in str(caught.value)
    clients[way].run(PUBLISH, folder=folder, repo=repo, options={})
    found = hub.files(repo)
    assert found.keys() == {*PUSHED, "model.safetensors", "README.md"}
    assert all(found[name] == (folder / name).read_bytes() for name in found)
    assert digests(folder) == before
    assert len(hub.repositories[repo].commits) == 2


@pytest.mark.parametrize(
    ("way", "endpoint"), [("lfs", "upload"), ("xet", "xorb"), ("xet", "commit"), ("lfs", "preupload")]
)
def test_what_is_cut_off_half_way_is_sent_again(
    way: str, endpoint: str, clients: dict[str, Client], hub: Hub, folder: Path, repo: str
) -> None:
    hub.fail(endpoint, cut=True)
    clients[way].run(PUBLISH, folder=folder, repo=repo, options={})
    assert {request.status for request in hub.asked(endpoint)} >= {0, 200}
    assert hub.files(repo)["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_other_mistakes_are_one_line(lfs_client: Client, folder: Path, repo: str) -> None:
    mistakes = [
        ("stranger/model", {}, "403"),
        (repo, {"token": "hf_nobodysToken"}, "401.*hf auth login"),
        (repo, {"token": f"{TOKEN}\n"}, "must be one word of ASCII"),
        ("org/../model", {}, "cannot be opened for pushing: HFValidationError"),
    ]
    for name, options, message in mistakes:
        with pytest.raises(ClientError, match=message) as caught:
            lfs_client.run(PUBLISH, folder=folder, repo=name, options=options)
        assert caught.value.kind == "PushError" and "\n" not in str(caught.value)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ClientError, match=r"must be safetensors, found the pickle pytorch_model.bin"):
        lfs_client.run(PUBLISH, folder=folder, repo=repo, options={})


def test_the_token_goes_to_the_hub_alone(clients: dict[str, Client], hub: Hub) -> None:
    """Last in this file: looks over all that the tests above have left."""
    for client in clients.values():
        assert TOKEN not in client.everything
    for repository in hub.repositories.values():
        for commit in repository.commits.values():
            assert not [path for path, file in commit.files.items() if TOKEN.encode() in file.content]
    for endpoint in ("upload", "xorb", "shard", "download"):
        assert all(request.token != TOKEN for request in hub.asked(endpoint))
