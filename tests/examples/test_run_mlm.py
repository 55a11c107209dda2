"""Tests of run_mlm.py: texts in, an encoder out that every script accepts."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, pipeline

from hf_layerfusion import BertForGRUFusionClassification
from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.pretraining.pretraining_arguments import (
    PretrainingArguments,
    PretrainingDataArguments,
)
from hf_layerfusion.recipes.pretraining.pretraining_data import open_streams
from hf_layerfusion.recipes.pretraining.pretraining_run import load_pretraining_model, pretrain
from hf_layerfusion.recipes.recipe_arguments import EncoderArguments
from hf_layerfusion.training.objectives import (
    MaskedLanguageModeling,
    NextSentencePrediction,
    SeededMasking,
    SimCSE,
    make_objective,
)
from hf_layerfusion.training.text_stream import DRAW
from tests.examples.command_line import parse
from tests.tiny import tiny_config, tiny_texts, tiny_tokenizer, write_csv

SCRIPT = Path(__file__).parents[2] / "examples" / "run_mlm.py"
CLASSES = (EncoderArguments, PretrainingDataArguments, PretrainingArguments)
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """70 texts in three formats, one with pairs, and 20 held-out texts."""
    folder = tmp_path_factory.mktemp("texts")
    write_csv(folder / "a.csv", tiny_texts(40, seed=1))
    texts = [text for text, _ in tiny_texts(30, seed=2)]
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:10]))
    (folder / "c.txt").write_text("\n\n".join(texts[10:]))
    write_csv(folder / "held-out.csv", tiny_texts(20, seed=3))
    return folder


@pytest.fixture
def call(files, tiny_encoder_dir):
    """Run the script's function in this process."""

    def run(output_dir, **changes):
        options = {
            "model_name_or_path": tiny_encoder_dir,
            "train_file": [str(files / name) for name in ("a.csv", "b.jsonl", "c.txt")],
            "output_dir": str(output_dir), "use_cpu": True, "disable_tqdm": True, "head_steps": 3,
            "per_device_train_batch_size": 8, "learning_rate": 1e-3, "max_seq_length": 32,
        }  # fmt: skip
        options |= changes
        several = {name: value for name, value in options.items() if isinstance(value, list)}
        extra = [part for name, values in several.items() for part in (f"--{name}", *values)]
        options = {name: value for name, value in options.items() if name not in several}
        return pretrain(*parse(CLASSES, options, *extra))

    return run


@pytest.mark.slow
def test_the_script_saves_an_encoder_that_every_script_takes(files, tmp_path, tiny_encoder_dir):
    """Through the interpreter, so that imports and output are the shell's."""
    settings = {
        "model_name_or_path": tiny_encoder_dir, "train_file": [str(files / "a.csv")], "use_cpu": True,
        "validation_file": [str(files / "held-out.csv")], "output_dir": str(tmp_path / "run"), "head_steps": 40,
        "num_train_epochs": 4, "learning_rate": 1e-2, "max_seq_length": 32, "per_device_train_batch_size": 8,
    }  # fmt: skip
    (tmp_path / "arguments.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "arguments.json")],
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[1] / "src")},
    )
    assert done.returncode == 0, done.stderr
    assert "train: 40 texts" in done.stderr
    assert "the checkpoint has no language-model head" in done.stderr
    assert "20/20" in done.stderr, "the progress bar counts to the end: 4 epochs of 5 steps"
    results = json.loads((tmp_path / "run" / "run" / "all_results.json").read_text())
    assert results["steps"] == 20
    assert results["head_steps"] == 40
    assert results["validation_loss"] < results["start_loss"]
    assert results["validation_perplexity"] == pytest.approx(math.exp(results["validation_loss"]))
    folder = str(tmp_path / "run")
    encoder, found = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"]
    _, found = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"]
    start = AutoModel.from_pretrained(tiny_encoder_dir)
    assert torch.equal(encoder.pooler.dense.weight, start.pooler.dense.weight), "what is not trained is kept"
    assert not torch.equal(
        encoder.encoder.layer[0].output.dense.weight, start.encoder.layer[0].output.dense.weight
    )
    fused = BertForGRUFusionClassification.from_pretrained(folder, num_groups=2)
    assert torch.equal(
        fused.base_model.encoder.encoder.layer[3].output.dense.weight,
        encoder.encoder.layer[3].output.dense.weight,
    )
    assert AutoTokenizer.from_pretrained(folder).vocab_size == tiny_tokenizer().vocab_size
    assert pipeline("fill-mask", model=folder, device="cpu")("what a [MASK] day")[0]["score"] > 0


def test_the_head_learns_alone_and_stays_tied_to_embeddings_that_do_not_move(
    call, tmp_path, tiny_encoder_dir, caplog
):
    """With rate 0 afterwards all that has changed is what the head's steps have changed."""
    with caplog.at_level(logging.INFO):
        call(tmp_path / "run", learning_rate=0)
    assert "it is trained alone first, for 3 steps with the encoder frozen" in caplog.text
    found = load_file(tmp_path / "run" / WEIGHTS)
    start = load_file(Path(tiny_encoder_dir) / WEIGHTS)
    assert {name.removeprefix("bert.") for name in found if name.startswith("bert.")} == set(start)
    for name, weight in start.items():
        assert torch.equal(found[f"bert.{name}"], weight), name
    torch.manual_seed(42)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "run")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    call(tmp_path / "untrained", learning_rate=0, head_steps=0)
    drawn = load_file(tmp_path / "untrained" / WEIGHTS)
    of_head = {name for name in found if not name.startswith("bert.")}
    assert of_head
    assert all(not torch.equal(found[name], drawn[name]) for name in of_head)


def test_the_head_alone_learns_which_tokens_are_frequent(call, tmp_path, files):
    held_out = {"validation_file": str(files / "held-out.csv"), "max_steps": 1, "learning_rate": 0}
    losses = [
        call(tmp_path / f"{steps}", head_steps=steps, per_device_train_batch_size=32, **held_out)[
            "start_loss"
        ]
        for steps in (0, 10, 30)
    ]
    assert losses == sorted(losses, reverse=True)


def test_masks_of_the_head_s_steps_do_not_come_again(call, tmp_path, monkeypatch):
    seeds = []
    mask = SeededMasking.mask
    monkeypatch.setattr(SeededMasking, "mask", lambda self, row: seeds.append(row[DRAW]) or mask(self, row))
    call(tmp_path / "run", head_steps=9)
    assert len(seeds) == len(set(seeds)) == 2 * 70


def test_a_head_that_the_checkpoint_has_is_not_trained_alone(call, tmp_path, caplog):
    AutoModelForMaskedLM.from_config(tiny_config("roberta", 2)).save_pretrained(tmp_path / "with-head")
    tiny_tokenizer().save_pretrained(tmp_path / "with-head")
    with caplog.at_level(logging.INFO):
        results = call(tmp_path / "run", model_name_or_path=str(tmp_path / "with-head"))
    assert "language-model head" not in caplog.text
    assert "head_steps" not in results
    assert results["steps"] == 9


@pytest.mark.parametrize("objective", ["mlm", "simcse"])
@pytest.mark.parametrize("step", [4, 11])
def test_a_resumed_run_ends_in_the_same_weights(call, tmp_path, objective, step):
    """Two epochs of 9 steps; cut off in the middle of the first and of the second."""
    settings = {
        "objective": objective, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": step,
        "save_total_limit": 5, "shuffle_buffer_size": 20, "validation_fraction": 0.1, "head_steps": 2,
        "model_name_or_path": dropping(tmp_path),
    }  # fmt: skip
    whole = call(tmp_path / "whole", **settings)
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", cut / f"checkpoint-{step}")
    for name in ("run.json", "start.json"):
        shutil.copy(tmp_path / "whole" / "run" / name, cut)  # where earlier versions had them
    resumed = call(cut, **settings, resume_from_checkpoint="True")
    expected, found = load_file(tmp_path / "whole" / WEIGHTS), load_file(cut / WEIGHTS)
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    assert resumed["validation_loss"] == whole["validation_loss"]


def dropping(folder):
    """An encoder with dropout, whose masks a resumed run must repeat."""
    AutoModel.from_config(tiny_config("bert", 2, hidden_dropout_prob=0.1)).save_pretrained(
        folder / "dropping"
    )
    tiny_tokenizer().save_pretrained(folder / "dropping")
    return str(folder / "dropping")


def test_a_run_cut_off_before_its_first_checkpoint_starts_anew(call, tmp_path):
    call(tmp_path / "whole")
    (tmp_path / "cut").mkdir()
    shutil.copy(tmp_path / "whole" / "run" / "run.json", tmp_path / "cut")
    call(tmp_path / "cut", resume_from_checkpoint="True")
    expected, found = load_file(tmp_path / "whole" / WEIGHTS), load_file(tmp_path / "cut" / WEIGHTS)
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_held_out_loss_is_the_mean_over_all_masked_tokens(call, files, tmp_path):
    """Batches of 8 and 4 texts with unlike numbers of masked tokens: not the mean of their means."""
    arguments = {"validation_file": [str(files / "held-out.csv")], "per_device_eval_batch_size": 8}
    results = call(tmp_path / "run", **arguments)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "run").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    data = PretrainingDataArguments(
        train_file=[str(files / "a.csv")], validation_file=[str(files / "held-out.csv")], max_seq_length=32
    )
    rows = list(open_streams(data, tokenizer, 42, MaskedLanguageModeling())[0]["validation"])
    batch = MaskedLanguageModeling().collator(tokenizer)(rows)
    labels = batch.pop("labels")
    with torch.no_grad():
        expected = F.cross_entropy(model(**batch).logits.double().flatten(0, 1), labels.flatten())
    assert results["validation_loss"] == pytest.approx(expected.item(), rel=1e-6)


def test_simcse_saves_the_plain_encoder(call, tmp_path, tiny_encoder_dir):
    objective = '{"simcse": {"pooling": "cls"}}'
    results = call(tmp_path / "run", objective=objective, validation_fraction=0.2, hidden_dropout=0.3)
    assert "validation_perplexity" not in results
    assert set(load_file(tmp_path / "run" / WEIGHTS)) == set(load_file(Path(tiny_encoder_dir) / WEIGHTS))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["architectures"] == ["BertModel"]
    assert config["hidden_dropout_prob"] == 0.3


def test_adjacent_sentences_are_pairs_of_one_text_on_one_side_of_the_split(call, tmp_path, caplog):
    """30 texts of 2 and 3 sentences, a third of them with one on each line."""
    words = [text for text, _ in tiny_texts(90, seed=4)]
    texts = [
        (". ", "! ", "\n")[number % 3].join(words[3 * number : 3 * number + 2 + number % 2])
        for number in range(30)
    ]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with caplog.at_level(logging.INFO):
        results = call(
            tmp_path / "run", train_file=[str(tmp_path / "texts.jsonl")], objective="adjacent",
            validation_fraction=0.3,
        )  # fmt: skip
    assert results["texts"] < 45
    assert f"train: {results['texts']} pairs of adjacent sentences" in caplog.text
    assert f"validation: {45 - results['texts']} pairs of adjacent sentences" in caplog.text
    assert results["validation_loss"] != results["start_loss"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["architectures"] == ["BertModel"]


@pytest.fixture
def reviews(tmp_path):
    """20 texts of three sentences."""
    texts = [text for text, _ in tiny_texts(60, seed=4)]
    rows = [{"text": ". ".join(texts[place : place + 3])} for place in range(0, 60, 3)]
    (tmp_path / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(tmp_path / "reviews.jsonl")]


def test_post_training_trains_the_pooler_and_saves_what_every_auto_class_opens(
    call, tmp_path, tiny_encoder_dir, reviews
):
    results = call(tmp_path / "run", train_file=reviews, objective="mlm_nsp", validation_fraction=0.3)
    assert results["validation_loss"] < results["start_loss"]
    assert results["head_steps"] == 3
    folder = str(tmp_path / "run")
    encoder, found = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"]
    start = AutoModel.from_pretrained(tiny_encoder_dir)
    assert not torch.equal(encoder.pooler.dense.weight, start.pooler.dense.weight)
    _, found = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"]


def test_the_settings_of_post_training_are_options_of_the_script(tmp_path):
    options = yaml.safe_load((SCRIPT.parent / "post_training.yaml").read_text())
    _, data, arguments = parse(CLASSES, {**options, "output_dir": tmp_path, "train_file": "reviews.jsonl"})
    assert isinstance(make_objective(arguments.objective), NextSentencePrediction)
    assert (data.max_seq_length, arguments.learning_rate, arguments.warmup_steps) == (320, 3e-5, 0.1)


def test_an_encoder_that_predicts_no_next_sentences_is_refused(call, tmp_path, reviews):
    AutoModel.from_config(tiny_config("roberta", 2)).save_pretrained(tmp_path / "roberta")
    tiny_tokenizer().save_pretrained(tmp_path / "roberta")
    options = {"model_name_or_path": str(tmp_path / "roberta"), "train_file": reviews}
    with pytest.raises(
        UserError, match=r"objective mlm_nsp needs an architecture .*, found RobertaForMaskedLM"
    ):
        call(tmp_path / "run", objective="mlm_nsp", **options)
    assert not (tmp_path / "run").exists()


def test_rates_by_layer_are_shown_and_nothing_is_written(call, tmp_path):
    groups = {
        row[0]: float(row[1]) for row in call(tmp_path / "run", layer_decay=0.5, dry_run=True)["groups"]
    }
    assert groups["layer_3"] == 1e-3
    assert groups["embeddings"] == pytest.approx(1e-3 / 16, rel=1e-2)
    assert groups["fusion"] == 1e-3 if "fusion" in groups else groups["head"] == 1e-3
    assert not (tmp_path / "run").exists()


def test_layer_decay_moves_lower_layers_less(call, tmp_path, tiny_encoder_dir):
    call(tmp_path / "run", layer_decay=0.1, max_steps=1, head_steps=0)
    start, found = load_file(Path(tiny_encoder_dir) / WEIGHTS), load_file(tmp_path / "run" / WEIGHTS)
    names = [f"encoder.layer.{layer}.output.dense.weight" for layer in range(4)]
    moved = [(found[f"bert.{name}"] - start[name]).abs().max().item() for name in names]
    # Adam's first step is the rate itself.
    assert moved == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3], rel=0.1)


def test_an_encoder_with_code_of_its_own(call, tmp_path):
    """--trust_remote_code: the code comes along, and the folder opens as the one it came from did."""
    source = tmp_path / "own"
    AutoModelForMaskedLM.from_config(tiny_config("bert", 2)).save_pretrained(source)
    tiny_tokenizer().save_pretrained(source)
    (source / "own_code.py").write_text(
        "from transformers import BertConfig, BertForMaskedLM, BertModel\n\n\n"
        "class OwnConfig(BertConfig):\n    model_type = 'own'\n\n\n"
        "class OwnModel(BertModel):\n    config_class = OwnConfig\n\n\n"
        "class OwnForMaskedLM(BertForMaskedLM):\n    config_class = OwnConfig\n"
    )
    config = json.loads((source / "config.json").read_text())
    names = {"AutoConfig": "OwnConfig", "AutoModel": "OwnModel", "AutoModelForMaskedLM": "OwnForMaskedLM"}
    config |= {"model_type": "own", "auto_map": {key: f"own_code.{name}" for key, name in names.items()}}
    (source / "config.json").write_text(json.dumps(config))
    call(tmp_path / "run", model_name_or_path=str(source), trust_remote_code=True)
    assert (tmp_path / "run" / "own_code.py").exists()
    encoder, found = AutoModel.from_pretrained(
        tmp_path / "run", trust_remote_code=True, output_loading_info=True
    )
    assert type(encoder).__name__ == "OwnModel"
    assert not found["missing_keys"] - {"pooler.dense.weight", "pooler.dense.bias"}


def test_a_pooler_that_the_checkpoint_lacks_is_not_made_up(tmp_path):
    AutoModelForMaskedLM.from_config(tiny_config("roberta", 2)).save_pretrained(tmp_path / "mlm")
    for objective in (MaskedLanguageModeling(), SimCSE()):
        model, missing = load_pretraining_model(EncoderArguments(str(tmp_path / "mlm")), objective)
        assert missing == []
        assert not any("pooler" in name for name in model.state_dict())


def write_broken_encoder(folder, tiny_encoder_dir):
    model = AutoModel.from_pretrained(tiny_encoder_dir)
    weights = {name: weight for name, weight in model.state_dict().items() if "layer.2.output" not in name}
    model.save_pretrained(folder, state_dict=weights)
    tiny_tokenizer().save_pretrained(folder)


def test_a_checkpoint_that_lacks_a_layer_is_refused(call, tmp_path, tiny_encoder_dir):
    write_broken_encoder(tmp_path / "broken", tiny_encoder_dir)
    for objective in ("mlm", "simcse"):
        with pytest.raises(UserError, match=r"lacks weights of the encoder, such as .*layer\.2\.output"):
            call(tmp_path / "run", model_name_or_path=str(tmp_path / "broken"), objective=objective)


MISTAKES = {
    "no file": ({"train_file": None}, "--train_file must name at least one file"),
    "a missing file": ({"train_file": "no.csv"}, "no.csv: cannot be read"),
    "a missing column": ({"text_columns": "body"}, r"a\.csv: no column 'body'"),
    "two held-outs": (
        {"validation_file": "a.csv", "validation_fraction": 0.1},
        "--validation_file and --validation_fraction exclude each other",
    ),
    "fraction": ({"validation_fraction": 1}, "--validation_fraction must be 0 or more and below 1"),
    "nothing held out": ({"validation_fraction": 1e-9}, "validation: has no texts"),
    "evaluation": ({"eval_strategy": "epoch"}, "--eval_strategy epoch needs held-out texts"),
    "length": ({"max_seq_length": 65}, "--max_seq_length must be above 2 and at most 64"),
    "no rows": ({"max_train_samples": 0}, "--max_train_samples must be 1 or more, found 0"),
    "fewer than no rows": ({"max_eval_samples": -1}, "--max_eval_samples must be 1 or more, found -1"),
    "buffer": ({"shuffle_buffer_size": -1}, "--shuffle_buffer_size must be 0 or more"),
    "head steps": ({"head_steps": -1}, "--head_steps must be 0 or more"),
    "objective": ({"objective": "nsp"}, "objective must be one of mlm, mlm_nsp, simcse, adjacent"),
    "no adjacent sentences": (
        {"objective": "adjacent"},
        "train: has no pairs of adjacent sentences with --validation_fraction 0.0; choose another fraction or other",
    ),
    "a text a batch": (
        {"objective": "simcse", "per_device_train_batch_size": 1},
        "per_device_train_batch_size must be 2 or more for SimCSE, found 1",
    ),
    "regularizers": ({"regularizers": "rdrop"}, "regularizers=rdrop does not go with"),
    "grouping": (
        {"train_sampling_strategy": "group_by_length"},
        "train_sampling_strategy=group_by_length does not",
    ),
    "workers": ({"dataloader_num_workers": 2}, "dataloader_num_workers=2 does not go with"),
    "adapters": ({"use_lora": True}, "--use_lora is no option of"),
    "no such model": ({"model_name_or_path": "./no-such-folder"}, "no-such-folder"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(call, tmp_path, mistake):
    changes, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=message) as caught:
        call(tmp_path / "run", **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_another_run_is_refused(call, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="must be empty"):
        call(tmp_path / "run")


def test_the_head_is_trained_by_a_schedule_of_its_own(call, tmp_path):
    schedule = {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": '{"num_cycles": 2}'}
    assert call(tmp_path, max_steps=2, **schedule)["head_steps"] == 3
