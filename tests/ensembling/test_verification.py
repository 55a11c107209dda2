"""Tests of the manifests of saved models, adapters, checkpoints and ensembles: what writes them, and what `verify`
finds."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification

from hf_layerfusion import (
    BertForGRUFusionClassification,
    CerbertusForMultitask,
    Ensemble,
    add_adapters,
    verify_saved,
    write_model_manifest,
)
from hf_layerfusion.__main__ import COMMANDS, main
from hf_layerfusion.ensembling.soup import make_soup
from hf_layerfusion.errors import UserError
from hf_layerfusion.hub.manifest import MODEL_MANIFEST
from hf_layerfusion.recipes.run_folder import write_settings
from hf_layerfusion.training.adapters import load_adapter_model
from tests.ensembling.small import TEXTS, save_member
from tests.modeling.cases import build
from tests.tiny import tiny_tokenizer
from tests.training.small import small_trainer

PROGRAM = "hf_layerfusion"


def our_model(folder: Path, encoder: str) -> None:
    build("share-gru").save_pretrained(folder)


def stock_model(folder: Path, encoder: str) -> None:
    save_member(folder)
    write_model_manifest(folder)


def adapter(folder: Path, encoder: str) -> None:
    model = BertForGRUFusionClassification.from_pretrained(encoder, num_groups=2)
    add_adapters(model, LoraConfig(r=2)).save_pretrained(str(folder))


def adapters_of_tasks(folder: Path, encoder: str) -> None:
    tasks = {name: {"labels": ["no", "yes"]} for name in ("one", "two")}
    model = CerbertusForMultitask.from_pretrained(encoder, tasks=tasks)
    add_adapters(model, LoraConfig(r=2)).save_pretrained(str(folder))


def adapter_opened_in_a_model(folder: Path, encoder: str) -> None:
    adapter(folder.with_name("first"), encoder)
    BertForGRUFusionClassification.from_pretrained(folder.with_name("first")).save_pretrained(folder)


def checkpoint(folder: Path, encoder: str) -> None:
    trainer = small_trainer(folder.parent, save_strategy="steps", save_steps=1, max_steps=1)
    trainer.train()
    (folder.parent / "checkpoint-1").rename(folder)


def final_model(folder: Path, encoder: str) -> None:
    trainer = small_trainer(folder)
    trainer.processing_class = tiny_tokenizer()
    trainer.save_model(str(folder))


def carrying_ensemble(folder: Path, encoder: str) -> None:
    members = [str(save_member(folder.with_name(name), seed=seed)) for seed, name in enumerate(("a", "b"))]
    Ensemble.of(members).save_pretrained(folder.with_name("inner"), carry_members=True)
    Ensemble.of([str(folder.with_name("inner")), members[0]]).save_pretrained(folder, carry_members=True)


SAVED: dict[Callable[[Path, str], None], set[str]] = {
    our_model: {"model.safetensors", "config.json", "modeling_gru_fusion.py"},
    stock_model: {"model.safetensors", "config.json", "tokenizer.json"},
    adapter: {"adapter_model.safetensors", "adapter_config.json", "config.json", "modeling_gru_fusion.py"},
    adapters_of_tasks: {"one/adapter_model.safetensors", "two/adapter_config.json", "config.json"},
    adapter_opened_in_a_model: {"adapter_model.safetensors", "adapter_config.json", "config.json"},
    checkpoint: {"model.safetensors", "config.json", "optimizer.pt", "trainer_state.json"},
    final_model: {"model.safetensors", "config.json", "tokenizer.json"},
    carrying_ensemble: {
        "ensemble.json", "members/02-a/model.safetensors", "members/01-inner/ensemble.json",
        "members/01-inner/members/02-02-b/tokenizer.json",
    },
}  # fmt: skip


@pytest.mark.parametrize("save", SAVED, ids=lambda save: save.__name__)
def test_a_change_of_any_file_is_found(save: Any, tiny_encoder_dir: str, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    save(folder, tiny_encoder_dir)
    assert verify_saved(folder).not_listed == []
    for name in SAVED[save]:
        path = folder / name
        content = path.read_bytes()
        changed = bytearray(content)
        changed[len(changed) // 2] ^= 1
        for damaged in (bytes(changed), content[:-1], None):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            with pytest.raises(UserError) as caught:
                verify_saved(folder)
            assert "\n" not in str(caught.value)
        path.write_bytes(content)
    verify_saved(folder)
    if save is not carrying_ensemble:
        manifest = json.loads((folder / MODEL_MANIFEST).read_text())["files"]
        assert SAVED[save] - {"optimizer.pt", "trainer_state.json"} <= manifest.keys()


def test_each_folder_is_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carrying_ensemble(tmp_path / "saved", "")
    monkeypatch.chdir(tmp_path)
    found = verify_saved("saved")
    manifests = (tmp_path / "saved").rglob(MODEL_MANIFEST)
    assert found == (sum(len(json.loads(path.read_text())["files"]) for path in manifests), [])


def test_a_member_that_lies_elsewhere_is_compared_too(tmp_path: Path) -> None:
    members = [str(save_member(tmp_path / name, seed=seed)) for seed, name in enumerate(("a", "b"))]
    Ensemble.of(members).save_pretrained(tmp_path / "both")
    verify_saved(tmp_path / "both")
    path = tmp_path / "b" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match="the member b has changed since it was added"):
        verify_saved(tmp_path / "both")


def test_a_member_with_adapters_of_tasks_is_known_by_them_and_carried(
    tiny_encoder_dir: str, tmp_path: Path
) -> None:
    """Its weights lie in folders below its own, which neither its hash nor a copy had."""
    adapters_of_tasks(tmp_path / "member", tiny_encoder_dir)
    tiny_tokenizer().save_pretrained(tmp_path / "member")
    ensemble = Ensemble.of([str(tmp_path / "member")])
    ensemble.save_pretrained(tmp_path / "carried", carry_members=True)
    assert Ensemble.from_pretrained(tmp_path / "carried")(TEXTS, task="two") == ensemble(TEXTS, task="two")
    place = tmp_path / "carried" / "members" / "01-member"
    assert verify_saved(place).files
    path = place / "two" / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="the member member has changed"):
        Ensemble.from_pretrained(tmp_path / "carried")


def run_of_tasks(folder: Path) -> None:
    our_model(folder, "")
    for name in ("best-one", "run/search/run-0/checkpoint-2"):
        (folder / name).mkdir(parents=True)
        our_model(folder / name, "")


def run_of_seeds(folder: Path) -> None:
    write_settings(folder, {})
    for seed in (0, 1):
        our_model(folder / f"seed-{seed}", "")


def ensemble_with_soup(folder: Path) -> None:
    members = [str(save_member(folder.with_name(name), seed=seed)) for seed, name in enumerate(("a", "b"))]
    Ensemble.of(members).save_pretrained(folder)
    make_soup([Path(member) for member in members], folder / "soup")


BELOW = {run_of_tasks: "run/search/run-0/checkpoint-2", run_of_seeds: "seed-1", ensemble_with_soup: "soup"}


@pytest.mark.parametrize("save", BELOW, ids=lambda save: save.__name__)
def test_models_in_folders_below_are_compared_too(save: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    save(folder)
    assert verify_saved(folder).not_listed == []
    place = folder / BELOW[save]
    content = (place / "model.safetensors").read_bytes()
    (place / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=f"{place}: model.safetensors has changed since it was saved"):
        verify_saved(folder)
    (place / MODEL_MANIFEST).unlink()  # a folder that nothing vouches for is said not to be checked
    assert f"{BELOW[save]}/model.safetensors" in verify_saved(folder).not_listed


def test_what_was_added_is_found_and_what_was_saved_later_named(tmp_path: Path) -> None:
    our_model(tmp_path, "")
    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("# a card\n")
    found = verify_saved(tmp_path)
    assert "tokenizer.json" in found.not_listed and "README.md" not in found.not_listed
    write_model_manifest(tmp_path)
    assert verify_saved(tmp_path) == (found.files + len(found.not_listed), [])
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"adapter_config\.json was added since the model was saved"):
        verify_saved(tmp_path)


def test_the_manifest_changes_nothing_for_others(tmp_path: Path, tiny_encoder_dir: str) -> None:
    our_model(tmp_path / "model", "")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    again.save_pretrained(tmp_path / "again", max_shard_size="20KB")  # shards, and then none
    verify_saved(tmp_path / "again")
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 1
    again.save_pretrained(tmp_path / "again")
    verify_saved(tmp_path / "again")
    adapter(tmp_path / "adapter", tiny_encoder_dir)
    load_adapter_model(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[]", "is not a manifest"),
        ("[" * 100_000, "is not a manifest"),
        ('{"files": {"../secret": {"bytes": 1, "sha256": "0"}}}', "must lie in"),
        ('{"files": {"gone.json": {"bytes": 1, "sha256": "0"}}}', "gone.json is missing"),
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / MODEL_MANIFEST).write_text(content)
    with pytest.raises(UserError, match=reason):
        verify_saved(tmp_path)


# The command


def test_the_command_tells_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    our_model(tmp_path, "")
    main(["verify", str(tmp_path)])
    assert f"{tmp_path}: " in capsys.readouterr().out
    (tmp_path / "config.json").write_text("{}")
    for folder, message in (
        (tmp_path, "config.json has 2 bytes instead of"),
        (tmp_path / "none", "must be a folder, found none"),
        (tmp_path.parent, f"must hold {MODEL_MANIFEST}, found none"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["verify", str(folder)])
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_every_command_has_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [PROGRAM, "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(PROGRAM, run_name="__main__")
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"  {name} " in shown and command.summary in shown
        try:
            main([name, "--help"])
        except SystemExit as ended:  # argparse exits, the help of a recipe returns
            assert ended.code == 0  # noqa: PT017
        assert f"{name} " in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["unheard-of"])
    assert stopped.value.code == 2
