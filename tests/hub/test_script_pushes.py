"""Tests of `--push_to_hub` of every script in examples/: what arrives, and what a failure leaves behind."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from hf_layerfusion.hub.manifest import bytes_entry
from tests.hub.client import ROOT, Client
from tests.hub.server import TOKEN, Hub
from tests.tiny import tiny_texts, write_csv

CALL = """
import runpy, sys
sys.argv = [script, *arguments]
runpy.run_path(script, run_name="__main__")
result = 0
"""
RUN = {
    "use_cpu": True, "learning_rate": 3e-3, "num_train_epochs": 1, "per_device_train_batch_size": 16,
    "disable_tqdm": True,
}  # fmt: skip
GRUBERT = {"num_groups": 2, "fusion_hidden_size": 4, "downstream_hidden_size": 4, "dense_size": 4}
RUN_FILES = {
    "config.json", "model.safetensors", "tokenizer.json", "README.md", "model_manifest.json", "run/run.json",
    "run/training_args.json", "run/all_results.json", "run/trained_texts.npz",
}  # fmt: skip
NAMING_FOLDERS = ("run/run.json", "run/training_args.json", "run/trainer_state.json")
"""Files of a run that name folders of its machine, those of a pushed repository none."""


@pytest.fixture
def call(xet_client: Client, tiny_encoder_dir: str, tmp_path: Path) -> Any:
    """Run a script with these options into `tmp_path / "out"`; return its exit code and output."""

    def run(script: str, *extra: str, **options: Any) -> tuple[int, str]:
        options = {"output_dir": tmp_path / "out", **options}
        if script != "run_ensemble":
            options = {"model_name_or_path": tiny_encoder_dir, **RUN, **options}
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        path = ROOT / "examples" / f"{script}.py"
        code = xet_client.run(CALL, script=path, arguments=[*arguments, *extra])
        return code, xet_client.output

    return run


@pytest.fixture
def tweets(tiny_tweets: dict[str, Path]) -> dict[str, Any]:
    return (
        {f"{split}_file": path for split, path in tiny_tweets.items()} | GRUBERT | {"preprocessing": "light"}
    )


def check_no_folders(found: dict[str, bytes], tmp_path: Path) -> None:
    """Check that no file names a folder of this machine."""
    for place in (tmp_path.parent, ROOT, sys.prefix, os.environ["HF_HOME"], Path.home()):
        assert not [name for name, content in found.items() if str(place).encode() in content], place


def check_pushed(hub: Hub, repo: str, folder: Path, *more: str) -> dict[str, bytes]:
    """Check that the repository has these files, which name no folder of this machine and are unchanged otherwise,
    nothing that must not be pushed, and a card."""
    found = hub.files(repo)
    assert RUN_FILES - {"model.safetensors"} | set(more) <= found.keys()
    check_no_folders(found, folder.parent)
    changed = {name for name, content in found.items() if content != (folder / name).read_bytes()}
    of_tasks = {name for name in found if name.startswith("best-") and name.endswith("/training_args.json")}
    assert changed - of_tasks <= {*NAMING_FOLDERS, "adapter_config.json", "model_manifest.json"}
    assert set(NAMING_FOLDERS) <= changed
    kept = ("checkpoint-", "run/predictions", "run/mistakes", "run/logits", "run/search")
    assert not [name for name in found if name.endswith((".bin", ".pt", ".pth")) or name.startswith(kept)]
    card = found["README.md"].decode()
    assert f'"{repo}"' in card and str(folder) not in card
    assert ModelCard(card).data.eval_results
    assert not [name for name, content in found.items() if TOKEN.encode() in content]
    return found


def listed(output: str) -> list[str]:
    """Return the files that a dry run would push."""
    _, _, said = output.partition("--push_to_hub would push ")
    count, *lines = said.splitlines()
    names = [line.removeprefix("  ") for line in lines if line.startswith("  ")]
    assert count == f"{len(names)} files of --output_dir as it is now:"
    return names


def test_tweets_that_fail_to_be_pushed_until_the_same_command_succeeds(
    call: Any, tweets: dict[str, Any], hub: Hub, tmp_path: Path
) -> None:
    repo, folder = "org/tweets", tmp_path / "out"
    options = {**tweets, "push_to_hub": True, "hub_model_id": repo, "hub_token": TOKEN, "token": TOKEN}
    options["hub_strategy"] = "every_save"
    hub.fail("create", status=401)
    code, output = call("run_tweets", **options)
    assert code == 2 and f"error: repository {repo}: cannot be opened for pushing: 401" in output
    assert not folder.exists()

    # In the background after the epoch, once more when training ends, and at last with everything. With Xet the
    # client cuts a commit of many files in parts when it fails, and tries each.
    hub.fail("commit", status=403, times=99)
    code, output = call("run_tweets", **options)
    hub.heal()
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert code == 2 and "403" in line and line.endswith("the same command pushes it again.")
    assert "Training goes on" in output and TOKEN not in output
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {folder / name for name in (*RUN_FILES, "run/predictions.csv")} <= before.keys()
    assert not [path for path, content in before.items() if TOKEN.encode() in content]

    asked = len(hub.requests)
    code, output = call("run_tweets", **options, dry_run=True)
    planned = listed(output)
    assert code == 0 and len(hub.requests) == asked

    code, output = call("run_tweets", **options)
    assert code == 0 and "finished before" in output and f"pushed: {hub.url}/{repo}" in output
    assert planned == sorted(hub.files(repo))
    plots = [f"run/plots/{name}.png" for name in ("training_curves", "confusion_matrix", "layer_use")]
    check_pushed(
        hub, repo, folder, "model.safetensors", "modeling_gru_fusion.py", "run/layer_use.json", *plots
    )
    assert len(hub.repositories[repo].commits) == 2
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}.keys() == before.keys()

    code, output = call("run_tweets", **{**options, "seed": 7})
    assert code == 2 and "other settings (seed)" in output


def test_aspects_and_inference_by_adapters(
    call: Any, tiny_encoder_dir: str, hub: Hub, tmp_path: Path
) -> None:
    for script, columns in (("run_absa", "sentence,aspect,label"), ("run_nli", "sentence1,sentence2,label")):
        files = {}
        for seed, split in enumerate(("train", "validation", "test")):
            rows = [
                f"{text} {number},the {number % 3},{label}"
                for number, (text, label) in enumerate(tiny_texts(40, seed))
            ]
            files[f"{split}_file"] = tmp_path / f"{script}-{split}.csv"
            files[f"{split}_file"].write_text("\n".join([columns, *rows]) + "\n")
        folder, repo = tmp_path / script, f"org/{script}"
        options = {"use_lora": True} if script == "run_nli" else {}
        code, output = call(
            script, **files, **options, output_dir=folder, push_to_hub=True, hub_model_id=repo
        )
        assert code == 0, output
        found = check_pushed(hub, repo, folder, "modeling_layer_pooling.py")
        if options:
            base = json.loads(found["adapter_config.json"])["base_model_name_or_path"]
            assert base == f"(local) {Path(tiny_encoder_dir).name}"
            manifest = json.loads(found["model_manifest.json"])["files"]
            assert manifest["adapter_config.json"] == bytes_entry(found["adapter_config.json"])


def test_several_tasks(call: Any, tiny_tweets: dict[str, Path], hub: Hub, tmp_path: Path) -> None:
    tasks = {
        name: {f"{split}_file": path.name for split, path in tiny_tweets.items()} for name in ("mood", "tone")
    }
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    code, output = call(
        "run_multitask", tasks_file=tmp_path / "tasks.json", data_dir=tiny_tweets["train"].parent, push_to_hub=True,
        hub_model_id="org/tasks",
    )  # fmt: skip
    assert code == 0, output
    check_pushed(hub, "org/tasks", tmp_path / "out", "modeling_cerbertus.py", "run/plots/mood.png")


def test_an_ensemble_and_a_member_that_is_pushed_afterwards(
    call: Any, tweets: dict[str, Any], hub: Hub, tmp_path: Path
) -> None:
    members = [tmp_path / "first", tmp_path / "second"]
    for seed, member in enumerate(members):
        assert call("run_tweets", **tweets, seed=seed, output_dir=member)[0] == 0
    code, output = call("run_tweets", **tweets, seed=1, output_dir=members[1], push_to_hub=True)
    assert code == 0 and "finished before" in output
    check_pushed(hub, "tester/second", members[1])

    test_file = write_csv(tmp_path / "test.csv", tiny_texts(20, seed=9))
    options = {
        "test_file": test_file,
        "push_to_hub": True,
        "hub_model_id": "org/both",
        "device": "cpu",
        "combiner": "average_logits",
    }
    extra = ["--members", *map(str, members)]
    code, output = call("run_ensemble", *extra, **options)
    assert code == 2 and "set --carry_members True" in output and not (tmp_path / "out").exists()
    code, output = call("run_ensemble", *extra, **options, carry_members=True, dry_run=True)
    assert code == 2 and "run it first" in output and not (tmp_path / "out").exists()

    hub.fail("commit", status=403, times=9)
    code, output = call("run_ensemble", *extra, **options, carry_members=True)
    hub.heal()
    assert code == 2 and "the same command pushes it again" in output
    code, output = call("run_ensemble", *extra, **options, carry_members=True, dry_run=True)
    planned = listed(output)
    code, output = call("run_ensemble", *extra, **options, carry_members=True)
    assert code == 0, output
    found = hub.files("org/both")
    assert planned == sorted(found)
    names = {
        "ensemble.json",
        "README.md",
        "run/table.csv",
        "run/run.json",
        "members/01-first/model.safetensors",
    }
    check_no_folders(found, tmp_path)
    assert names <= found.keys() and not [name for name in found if "predictions" in name]
    assert 'Ensemble.from_pretrained("org/both")' in found["README.md"].decode()


def test_several_models_are_refused(call: Any, tweets: dict[str, Any], tmp_path: Path) -> None:
    code, output = call("run_tweets", "--seeds", "1", "2", **tweets, push_to_hub=True)
    assert code == 2 and "--push_to_hub pushes one model" in output
    files = {"train_file": tweets["train_file"], "text_column": "text", "sentence_only": True}
    code, output = call("run_absa", **files, folds=2, push_to_hub=True)
    assert code == 2 and "--push_to_hub pushes one model" in output
    assert not (tmp_path / "out").exists()
