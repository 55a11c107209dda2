"""Tests of the Trainer's pushes, in the background and at the end: their content, and that no failure is lost."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import ModelCard
from packaging.version import Version
from safetensors.torch import load

from tests.hub.client import Client, ClientError
from tests.hub.server import TOKEN, Hub

# Four steps, a save after each.
TRAIN = """
import torch
from hf_layerfusion import BertForGRUFusionClassification, LayerFusionTrainer, LayerFusionTrainingArguments
from tests.tiny import tiny_config, tiny_texts, tiny_tokenizer

torch.set_num_threads(1)

def make_trainer(folder, repo, **options):
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    rows = [
        {**tokenizer(text), "labels": int(label == "positive")} for text, label in tiny_texts(32)
    ]
    model = BertForGRUFusionClassification(
        BertForGRUFusionClassification.config_class(
            encoder_config=tiny_config("bert", 2).to_dict(), num_groups=2, fusion_hidden_size=4,
            downstream_hidden_size=4, dense_size=0,
        )
    )
    arguments = LayerFusionTrainingArguments(**{
        "output_dir": folder, "push_to_hub": True, "hub_model_id": repo, "use_cpu": True, "report_to": "none",
        "per_device_train_batch_size": 8, "num_train_epochs": 1, "save_strategy": "steps", "save_steps": 1,
        "hub_always_push": True, "disable_tqdm": True, "logging_strategy": "no", **options,
    })
    return LayerFusionTrainer(
        model=model, args=arguments, train_dataset=rows, eval_dataset=rows[:8], processing_class=tokenizer,
    )
"""


# The client tries a commit of at most 20 files, as these are, once; more it tries again in ever smaller parts.
REQUESTS_A_PUSH = 1


@pytest.fixture
def train(xet_client: Client, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """Run code about a `trainer` in `tmp_path / "run"`, for the repository `org/NAME_OF_THE_TEST`."""
    xet_client.run(TRAIN)

    def run(code: str, **options: Any) -> Any:
        values = {"folder": tmp_path / "run", "repo": f"org/{request.node.name}", "options": options}
        return xet_client.run(f"trainer = make_trainer(folder, repo, **options)\n{code}", **values)

    return run


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def is_staged(folder: Path) -> bool:
    return any(folder.glob("_push-*"))


def test_train_and_push(train: Any, hub: Hub, tmp_path: Path) -> None:
    code = """
trainer.train()
trainer.push_to_hub(dataset="tiny texts", language="en")
result = trainer.hub_model_id
"""
    options = {"eval_strategy": "steps", "eval_steps": 2, "hub_token": TOKEN}
    repo = train(code, **options)
    found = hub.files(repo)
    names = {"config.json", "model.safetensors", "README.md", "training_args.json", "tokenizer.json"}
    assert names | {"modeling_gru_fusion.py", "run/plots/training_curves.png"} <= found.keys()
    assert not [name for name in found if name.endswith((".bin", ".pt", ".pth")) or "checkpoint" in name]
    assert found["model.safetensors"] == weights_of(tmp_path / "run")
    card = ModelCard(found["README.md"].decode())
    assert "More information needed" not in card.text and "[More" not in card.text
    assert {"generated_from_trainer", "hf_layerfusion", "grubert"} <= set(card.data.tags)
    assert card.data.language == ["en"] and "tiny texts" in card.text and f'model="{repo}"' in card.text
    last = [e for e in json.loads(_state(tmp_path))["log_history"] if "eval_loss" in e][-1]
    assert f"| validation | {last['eval_loss']:.4f} |" in card.text and card.data.eval_results is None
    messages = [commit.message for commit in hub.repositories[repo].commits.values()]
    assert messages[1:5] == [f"Training in progress, step {step}" for step in range(1, 5)]
    assert not is_staged(tmp_path / "run")


def _state(tmp_path: Path) -> str:
    return (tmp_path / "run" / "checkpoint-4" / "trainer_state.json").read_text()


def test_a_card_of_somebodys_own_stays(train: Any, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "README.md").write_text("# mine\n")
    repo = train("trainer.push_to_hub(); result = trainer.hub_model_id", hub_strategy="end")
    assert hub.files(repo)["README.md"] == b"# mine\n"


def test_a_later_push_mends_a_failure_which_is_told(
    train: Any, hub: Hub, tmp_path: Path, xet_client: Client
) -> None:
    hub.fail("commit", status=403, times=REQUESTS_A_PUSH)
    repo = train("trainer.train(); result = trainer.hub_model_id")
    assert "403" in xet_client.output and "Training goes on" in xet_client.output
    assert hub.files(repo)["model.safetensors"] == weights_of(tmp_path / "run" / "checkpoint-4")


def test_the_last_save_is_pushed_again_at_the_end(train: Any, hub: Hub, tmp_path: Path) -> None:
    hub.fail("commit", status=403, times=4 * REQUESTS_A_PUSH)
    repo = train("trainer.train(); result = trainer.hub_model_id")
    assert hub.files(repo)["model.safetensors"] == weights_of(tmp_path / "run" / "checkpoint-4")
    assert not is_staged(tmp_path / "run")


def test_failures_to_the_end_are_raised_and_nothing_is_lost(
    train: Any, hub: Hub, tmp_path: Path, xet_client: Client
) -> None:
    hub.fail("commit", status=403, times=5 * REQUESTS_A_PUSH)
    with pytest.raises(ClientError, match="failed: 403") as caught:
        train("trainer.train()")
    assert caught.value.kind == "PushError" and "\n" not in str(caught.value)
    assert xet_client.run("result = trainer.state.global_step") == 4
    assert not is_staged(tmp_path / "run")
    assert xet_client.run("result = trainer.push_to_hub()").startswith(hub.url)


def test_what_was_skipped_arrives(train: Any, hub: Hub, tmp_path: Path) -> None:
    """The first push waits until all of training is done, so that each later save finds it under way."""
    code = """
import threading
done = threading.Event()
push, finish = trainer.hub_push.push_copy, trainer._finish_current_push

def slow_push(copy, *args):
    if copy.name.endswith("-1"):
        done.wait(30)
    push(copy, *args)

def finish_all():
    done.set()
    finish()

trainer.hub_push.push_copy, trainer._finish_current_push = slow_push, finish_all
trainer.train()
result = trainer.hub_model_id
"""
    repo = train(code, hub_always_push=False, hub_strategy="checkpoint", save_total_limit=1)
    found = hub.files(repo)
    messages = [commit.message for commit in hub.repositories[repo].commits.values()]
    assert not [message for message in messages if "step 2" in message or "step 3" in message]
    assert found["model.safetensors"] == weights_of(tmp_path / "run" / "checkpoint-4")
    assert json.loads(found["last-checkpoint/trainer_state.json"])["global_step"] == 4


def test_a_checkpoint_from_the_hub_resumes(train: Any, hub: Hub, tmp_path: Path, xet_client: Client) -> None:
    repo = train("trainer.train(); result = trainer.hub_model_id", hub_strategy="checkpoint", hub_token=TOKEN)
    found = hub.files(repo)
    assert "last-checkpoint/optimizer.pt" in found and "last-checkpoint/training_args.bin" not in found
    code = """
from huggingface_hub import snapshot_download
again = make_trainer(folder + "-again", repo, push_to_hub=False, max_steps=6, save_strategy="no")
again.train(resume_from_checkpoint=snapshot_download(repo) + "/last-checkpoint")
result = again.state.global_step
"""
    assert xet_client.run(code, folder=str(tmp_path / "run"), repo=repo) == 6


def test_a_repository_that_cannot_be_written_to_is_refused_at_once(
    train: Any, hub: Hub, tmp_path: Path
) -> None:
    for endpoint in ("create", "branch"):
        hub.fail(endpoint, status=403)
        with pytest.raises(ClientError, match="cannot be opened for pushing: 403"):
            train("")
    assert not (tmp_path / "run" / "checkpoint-1").exists()


def test_the_token_is_nowhere(train: Any, hub: Hub, tmp_path: Path, xet_client: Client) -> None:
    options = {"hub_token": TOKEN, "hub_strategy": "all_checkpoints"}
    repo = train(
        "trainer.train(); trainer.push_to_hub(); print(trainer.args); result = trainer.hub_model_id",
        **options,
    )
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert tmp_path / "run" / "checkpoint-4" / "training_args.bin" in written
    assert "checkpoint-4/optimizer.pt" in hub.files(repo)
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    assert not [name for name, content in hub.files(repo).items() if TOKEN.encode() in content]
    assert TOKEN not in xet_client.everything


@pytest.mark.skipif(
    Version(huggingface_hub.__version__) < Version("2.2"),
    reason="a card's push_to_hub asks huggingface.co, whatever HF_ENDPOINT says",
)
def test_the_models_own_method(xet_client: Client, hub: Hub) -> None:
    """`push_to_hub` of model, tokenizer and card, as everywhere in the ecosystem."""
    code = """
from hf_layerfusion.hub.card import build_card
from hf_layerfusion.hub.card_facts import CardFacts
trainer = make_trainer("unused", "org/by-hand", push_to_hub=False)
trainer.model.push_to_hub(repo, tags=["mine"])
from huggingface_hub import hf_hub_download
result = open(hf_hub_download(repo, "README.md")).read()
trainer.processing_class.push_to_hub(repo)
facts = CardFacts("by-hand", "tiny", metrics={"test": {"accuracy": 0.5}}, model_path=repo)
build_card(facts).push_to_hub(repo)
trainer.model.push_to_hub(repo)
"""
    xet_client.run(TRAIN)
    first = ModelCard(xet_client.run(code, repo="org/by-hand"))
    assert "More Information" not in first.text and "does not record how the model was trained" in first.text
    assert 'from_pretrained("org/by-hand")' in first.text
    assert first.data.tags == ["hf_layerfusion", "layer-fusion", "mine"]
    found = hub.files("org/by-hand")
    assert {"config.json", "modeling_gru_fusion.py", "tokenizer.json"} <= found.keys()
    assert load(io.BytesIO(found["model.safetensors"]).getvalue())
    card = ModelCard(found["README.md"].decode())
    assert card.data.eval_results[0].metric_value == 0.5 and "[More" not in card.text
