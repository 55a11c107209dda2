from __future__ import annotations

import itertools
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import DataCollatorWithPadding, TrainerCallback

from hf_layerfusion import BertWithPoolingModule, LayerPoolingConfig
from hf_layerfusion.errors import UserError
from hf_layerfusion.training.collators import PaddingCollator
from hf_layerfusion.training.frozen_state_cache import StateCollator
from hf_layerfusion.training.state_cache import StateCache, text_key
from hf_layerfusion.training.state_reader import texts_of
from hf_layerfusion.training.trainer import LayerFusionTrainer
from tests.modeling.cases import DEPTH, build
from tests.tiny import tiny_config, tiny_tokenizer
from tests.training.small import rows, small_arguments, small_model

CASES = ("share-gru", "attention-cls", "lstm-mean")


def frozen_trainer(
    folder: Path, model: nn.Module, cache: Path | None = None, train: Any = None, **changes: Any
) -> LayerFusionTrainer:
    """On 24 rows, evaluated on 8 others; with plain SGD, which makes no much of a rounding error."""
    settings: dict[str, Any] = {
        "cache_frozen_states": None if cache is None else str(cache),
        "freeze_encoder": True,
        "optim": "sgd",
        "learning_rate": 0.1,
    }
    return LayerFusionTrainer(
        model,
        small_arguments(folder, **(settings | changes)),
        train_dataset=rows(24, 3) if train is None else train,
        eval_dataset=rows(8, 3, seed=1),
        processing_class=tiny_tokenizer(),
        data_collator=DataCollatorWithPadding(tiny_tokenizer()),
    )


class EncoderRuns(TrainerCallback):
    """Counts the texts that the encoder reads."""

    def __init__(self, model: Any) -> None:
        self.texts = 0
        model.base_model.encoder.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.texts += len(kwargs["input_ids"])


def same_model(case: str, **changes: Any) -> Any:
    torch.manual_seed(1)
    return build(case, **changes)


@pytest.mark.parametrize("case", CASES)
def test_training_ends_in_the_weights_of_a_run_without_the_cache(tmp_path: Path, case: str) -> None:
    settings = {"num_train_epochs": 2, "eval_strategy": "epoch", "train_sampling_strategy": "group_by_length"}
    plain = frozen_trainer(tmp_path / "plain", same_model(case), **settings)
    plain.train()
    cached = frozen_trainer(tmp_path / "cached", same_model(case), tmp_path / "states", **settings)
    runs = EncoderRuns(cached.model)
    before = {name: value.clone() for name, value in cached.model.state_dict().items()}
    cached.train()
    assert runs.texts == 24 + 8
    for name, expected in plain.model.state_dict().items():
        torch.testing.assert_close(cached.model.state_dict()[name], expected, rtol=0, atol=1e-6)
        assert torch.equal(expected, before[name]) == (".encoder." in name), name
    losses = [[e["eval_loss"] for e in t.state.log_history if "eval_loss" in e] for t in (plain, cached)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_ids_whatever_the_batch(tmp_path: Path, case: str) -> None:
    """Texts of many lengths, some padded in their rows, in batches other than those they were cached in."""
    train = rows(24, 3)
    for row in train[::3]:
        row |= {"input_ids": row["input_ids"] + [0, 0], "attention_mask": row["attention_mask"] + [0, 0]}
    trainer = frozen_trainer(
        tmp_path,
        same_model(case),
        tmp_path / "states",
        train,
        per_device_train_batch_size=5,
        train_sampling_strategy="sequential",
    )
    model = trainer.model
    with torch.no_grad():
        for batch, start in zip(trainer.get_train_dataloader(), range(0, 24, 5), strict=True):
            assert "input_ids" not in batch
            labels = batch.pop("labels")
            expected = train[start : start + 5]
            assert labels.tolist() == [row["labels"] for row in expected]
            logits = model.eval()(**batch).logits
            for found, row in zip(logits, expected, strict=True):
                inputs = {name: torch.tensor([row[name]]) for name in ("input_ids", "attention_mask")}
                torch.testing.assert_close(found, model(**inputs).logits[0], rtol=0, atol=1e-6)


def test_only_what_the_model_reads_is_kept_and_others_that_read_it_find_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("hf_layerfusion"), "propagate", True)
    caplog.set_level(logging.INFO, "hf_layerfusion")
    tokens = sum(len(row["input_ids"]) for row in rows(24, 3) + rows(8, 3, seed=1))
    sizes = {}
    for case, expected in {
        "attention-cls": 32 * 4,  # a vector of each of the four layers
        "last-cls": 32,
        "last_concat-gru": tokens * 2,  # two layers of each token
        "share-gru": tokens * 4,
    }.items():
        folder = tmp_path / case
        frozen_trainer(tmp_path, same_model(case), folder).get_train_dataloader()
        sizes[case] = sum(path.stat().st_size for path in folder.glob("*/*.states"))
        assert sizes[case] == expected * 32 * 4
    assert "of 32 texts 32 are new" in caplog.text
    assert f"their states take {sizes['share-gru'] / 1e6:.3f} MB" in caplog.text
    for case, known in (("lstm-cls", "attention-cls"), ("cat_depth-lstm", "share-gru")):
        model = same_model(case)
        runs = EncoderRuns(model)
        torch.manual_seed(1)
        other = build(known)
        model.base_model.encoder.load_state_dict(other.base_model.encoder.state_dict())
        frozen_trainer(tmp_path, model, tmp_path / known).get_train_dataloader()
        assert runs.texts == 0


def folders(cache: Path) -> int:
    return len(list(cache.iterdir()))


def test_another_encoder_tokenizer_or_precision_is_another_key(tmp_path: Path) -> None:
    cache = tmp_path / "states"
    frozen_trainer(tmp_path, same_model("mean-cls"), cache).get_train_dataloader()
    assert folders(cache) == 1
    changed = same_model("mean-cls")
    with torch.no_grad():
        changed.base_model.encoder.embeddings.word_embeddings.weight[7, 3] += 1e-3
    frozen_trainer(tmp_path, changed, cache).get_train_dataloader()
    assert folders(cache) == 2
    trainer = frozen_trainer(tmp_path, same_model("mean-cls"), cache)
    trainer.processing_class = tiny_tokenizer()
    trainer.processing_class(["good", "a good day"], padding=True, truncation=True, max_length=3)
    trainer.get_train_dataloader()
    assert folders(cache) == 2  # how it pads or cuts is seen in the texts
    trainer = frozen_trainer(tmp_path, same_model("mean-cls"), cache)
    trainer.processing_class.add_tokens(["unheard"])
    trainer.get_train_dataloader()
    assert folders(cache) == 3
    trainer = frozen_trainer(tmp_path, same_model("mean-cls"), cache, bf16=True)
    trainer.get_train_dataloader()
    assert folders(cache) == 4
    assert trainer.frozen_states.states.dtype == torch.bfloat16


def test_bf16_trains_from_states_of_half_the_size(tmp_path: Path) -> None:
    for name, changes in {"fp32": {}, "bf16": {"bf16": True}}.items():
        trainer = frozen_trainer(tmp_path, same_model("share-gru"), tmp_path / name, **changes)
        trainer.train()
    sizes = [next((tmp_path / name).glob("*/*.states")).stat().st_size for name in ("fp32", "bf16")]
    assert sizes[0] == 2 * sizes[1]
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_states_may_be_kept_at_half_precision(
    tmp_path: Path, dtype: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half the space, said before and after, and all but the same training."""
    monkeypatch.setattr(logging.getLogger("hf_layerfusion"), "propagate", True)
    caplog.set_level(logging.INFO, "hf_layerfusion")
    models = []
    for kept in ("float32", dtype):
        trainer = frozen_trainer(
            tmp_path, same_model("concat-mean"), tmp_path / kept, frozen_states_dtype=kept, logging_steps=1
        )
        trainer.train()
        models.append(trainer.model.state_dict())
    sizes = [sum(f.stat().st_size for f in (tmp_path / d).glob("*/*.states")) for d in ("float32", dtype)]
    assert sizes[0] == 2 * sizes[1]
    assert f"their states take {sizes[1] / 1e6:.3f} MB in" in caplog.text
    assert f"holds 32 texts in {sizes[1] / 1e6:.3f} MB; " in caplog.text
    for name, expected in models[0].items():
        torch.testing.assert_close(models[1][name], expected, rtol=0.02, atol=0.02)


def test_texts_that_came_later_are_added(tmp_path: Path) -> None:
    cache = tmp_path / "states"
    frozen_trainer(tmp_path, same_model("last-cls"), cache).get_train_dataloader()
    model = same_model("last-cls")
    runs = EncoderRuns(model)
    more = Dataset.from_list(rows(24, 3) + rows(5, 3, seed=7))
    trainer = frozen_trainer(tmp_path, model, cache, more)
    trainer.train()
    assert runs.texts == 5
    trainer.predict(rows(3, 3, seed=8))
    assert runs.texts == 5 + 3  # what is predicted once is not kept
    expected = trainer.predict(rows(5, 3, seed=8) + rows(8, 3, seed=1)).predictions
    before = runs.texts
    found = trainer.predict(rows(8, 3, seed=1)).predictions
    assert runs.texts == before  # the evaluation's texts are
    assert found == pytest.approx(expected[5:], abs=1e-6)
    trainer.frozen_states.further = [rows(9, 3, seed=9)]
    trainer.frozen_states.reset()
    trainer.get_train_dataloader()
    trainer.predict(rows(9, 3, seed=9))
    assert runs.texts == before + 9
    assert folders(cache) == 1


def test_a_damaged_state_is_computed_anew(tmp_path: Path) -> None:
    """Training ends as if nothing had happened, and the encoder reads the damaged text alone again."""
    cache = tmp_path / "states"
    weights = []
    for expected in (24 + 8, 1, 0):
        model = same_model("last-cls")
        runs = EncoderRuns(model)
        frozen_trainer(tmp_path / "run", model, cache).train()
        assert runs.texts == expected
        weights.append(model.state_dict())
        (path, *_) = sorted(cache.glob("*/*.states"), key=lambda path: -path.stat().st_size)
        if expected > 1:
            content = bytearray(path.read_bytes())
            content[7] ^= 0x40
            path.write_bytes(content)
    for other in weights[1:]:
        for name, expected_weight in weights[0].items():
            torch.testing.assert_close(other[name], expected_weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("changes", [{"dataloader_num_workers": 1}, {"remove_unused_columns": False}])
def test_rows_of_tensors_and_other_processes_find_the_states(tmp_path: Path, changes: dict[str, Any]) -> None:
    train = Dataset.from_list(rows(24, 3)).with_format("torch")
    trainer = frozen_trainer(tmp_path, same_model("share-gru"), tmp_path / "states", train, **changes)
    assert all("encoder_states" in batch for batch in trainer.get_train_dataloader())


def test_the_encoder_is_read_without_dropout(tmp_path: Path) -> None:
    encoder = tiny_config("bert", DEPTH, hidden_dropout_prob=0.5)
    model = BertWithPoolingModule(
        LayerPoolingConfig(encoder_config=encoder, pooling="mean", num_labels=3)
    ).train()
    trainer = frozen_trainer(tmp_path, model, tmp_path / "states")
    batch = next(iter(trainer.get_train_dataloader()))
    assert model.training
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = model.eval()(**batch).logits
        rows_by_label = [row for row in rows(24, 3) if row["labels"] == labels[0]]
        alone = [model(input_ids=torch.tensor([row["input_ids"]])).logits[0] for row in rows_by_label]
    assert any(torch.allclose(logits[0], each, atol=1e-6) for each in alone)


class LengthCollator(DataCollatorWithPadding):
    """Adds a column that it makes of the ids."""

    def __call__(self, features: list[dict[str, Any]]) -> Any:
        lengths = torch.tensor([len(row["input_ids"]) for row in features])
        return {**super().__call__(features), "lengths": lengths}


def collated_rows(kind: str) -> list[dict[str, Any]]:
    """Eight rows: as they are, without labels, with several labels each, with another column, or of pairs apart."""
    found = rows(8, 3)
    if kind == "apart":
        return [
            {name: [row[name], other[name]] for name in ("input_ids", "attention_mask")}
            | {"labels": row["labels"]}
            for row, other in zip(found, rows(8, 3, seed=1), strict=True)
        ]
    for row in found:
        match kind:
            case "unlabelled":
                del row["labels"]
            case "several":
                row["labels"] = [0.0, row["labels"] / 2]
            case "column":
                row["special_tokens_mask"] = [0] * len(row["input_ids"])
    return found


KINDS = ("plain", "unlabelled", "several", "column")


@pytest.mark.parametrize(
    ("collator", "kind"),
    [
        *itertools.product((PaddingCollator, DataCollatorWithPadding, LengthCollator), KINDS),
        (PaddingCollator, "apart"),
    ],
)
def test_what_a_collator_makes_of_other_columns_is_in_the_batch(
    tmp_path: Path, collator: Any, kind: str
) -> None:
    """Of the ids too, as `LengthCollator` does."""
    collate, given = collator(tiny_tokenizer()), collated_rows(kind)
    cache = StateCache(tmp_path, {}, num_layers=2, width=4, dtype=torch.float32)
    texts = [text for row in given for text in texts_of(row)]
    states = [torch.randn(2, len(text["input_ids"]), 4) for text in texts]
    cache.check_room(100)
    cache.write(list(map(text_key, texts)), [each.shape[1] for each in states], states)
    expected = dict(collate(given))
    mask = expected.pop("attention_mask")
    del expected["input_ids"]
    batch = StateCollator(collate, cache)(given)
    assert torch.equal(batch.pop("attention_mask"), mask)
    found = batch.pop("encoder_states")
    assert found.shape[:-3] == mask.shape[:-1]
    for one, other in zip(found.flatten(0, -4), states, strict=True):
        assert torch.equal(one[:, : other.shape[1]], other)
        assert not one[:, other.shape[1] :].any()
    assert batch.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(batch[name], values)
        assert batch[name].dtype == values.dtype


@pytest.mark.parametrize("shape", [(3, 4, 5, 32), (3, 2, 4, 5, 32)])
def test_operations_are_those_of_the_trained_parameters(tmp_path: Path, shape: tuple[int, ...]) -> None:
    trainer = frozen_trainer(tmp_path, same_model("attention-cls"), tmp_path / "states")
    trainer.create_optimizer()
    trained = sum(each.numel() for each in trainer.model.parameters() if each.requires_grad)
    tokens = 3 * 5 * (2 if len(shape) == 5 else 1)
    assert trainer.floating_point_ops({"encoder_states": torch.zeros(shape)}) == 6 * tokens * trained


# What is refused


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"regularizers": name}, f"cache_frozen_states=states trains from .* excludes regularizers={name}")
        for name in ("smart", "rdrop", "freelb", "bregman")
    ]
    + [({"unfreeze_per_epoch": 1, "freeze_encoder": False}, "excludes unfreeze_per_epoch=1")],
)
def test_methods_that_run_the_encoder_are_refused(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        small_arguments(
            tmp_path / "run", **({"freeze_encoder": True, "cache_frozen_states": "states"} | changes)
        )


@pytest.mark.parametrize(
    ("make_model", "changes", "named"),
    [
        (
            lambda: build("share-gru"),
            {"freeze_encoder": False},
            "frozen encoder, found .* such as embeddings",
        ),
        (lambda: build("share-gru"), {"freeze_encoder": False, "frozen_layers": 3}, r"such as .*layer\.3\."),
        (small_model, {}, "found BertForSequenceClassification"),
        (lambda: build("share-gru", mask_padding=False), {}, "mask_padding=False"),
    ],
)
def test_models_without_a_frozen_encoder_are_refused_before_anything_is_made(
    tmp_path: Path, make_model: Any, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=named) as caught:
        frozen_trainer(tmp_path / "run", make_model(), tmp_path / "states", **changes)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_all_layers_frozen_by_number_are_a_frozen_encoder(tmp_path: Path) -> None:
    trainer = frozen_trainer(
        tmp_path, build("share-gru"), tmp_path / "states", freeze_encoder=False, frozen_layers=4
    )
    assert "encoder_states" in next(iter(trainer.get_train_dataloader()))


def test_a_trained_adapter_in_the_encoder_is_refused(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = build("share-gru")
    model.base_model.encoder.requires_grad_(False)
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["query"]))
    with pytest.raises(UserError, match=r"found 8 of its weights trained, such as .*lora"):
        frozen_trainer(tmp_path, model, tmp_path / "states", freeze_encoder=False)


def test_an_encoder_of_one_layer_trains(tmp_path: Path) -> None:
    model = build("concat-mean", encoder_config=tiny_config("bert", 1))
    trainer = frozen_trainer(tmp_path / "run", model, tmp_path / "states", init_from_probe=True)
    assert trainer.train().training_loss < 2


def test_a_stream_is_refused(tmp_path: Path) -> None:
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            return iter(rows(8, 3))

    trainer = frozen_trainer(tmp_path, build("last-cls"), tmp_path / "states", Stream(), max_steps=1)
    with pytest.raises(UserError, match="found a stream"):
        trainer.train()


def test_a_full_disk_is_refused_with_the_size_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = frozen_trainer(tmp_path, build("attention-cls"), tmp_path / "states")
    runs = EncoderRuns(trainer.model)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10_000))
    with pytest.raises(UserError, match=r"need 0\.016 MB, found 0\.010 MB free"):
        trainer.train()
    assert runs.texts == 0


def test_weights_that_were_loaded_since_are_read_anew(tmp_path: Path) -> None:
    trainer = frozen_trainer(tmp_path / "run", same_model("attention-cls"), tmp_path / "states")
    trainer.evaluate()
    torch.manual_seed(2)
    other = build("attention-cls")
    trainer.model.load_state_dict(other.state_dict())
    expected = frozen_trainer(tmp_path / "other", other).evaluate()["eval_loss"]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-6)


def test_data_sets_of_other_columns_are_read_by_themselves(tmp_path: Path) -> None:
    """Only the rows of training say which of their tokens are of the second text."""
    train = [row | {"token_type_ids": [1] * len(row["input_ids"])} for row in rows(24, 3)]
    losses = []
    for cache in (None, tmp_path / "states"):
        trainer = frozen_trainer(
            tmp_path / f"{cache}", same_model("attention-cls"), cache, train, max_steps=1
        )
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)


@pytest.mark.parametrize("model_type", ["bert", "electra", "roberta", "modernbert", "deberta-v2"])
@pytest.mark.parametrize("tokens", ["cls", "mean"])
def test_an_encoder_that_counts_positions_from_padding_on_the_left_is_refused(
    tmp_path: Path, model_type: str, tokens: str
) -> None:
    torch.manual_seed(0)
    relative = {"position_biased_input": False} if model_type == "deberta-v2" else {}
    changes = {"encoder_config": tiny_config(model_type, DEPTH, **relative).to_dict()}
    trainer = frozen_trainer(
        tmp_path,
        build(f"concat-{tokens}", **changes),
        tmp_path / "states",
        cache_frozen_states=str(tmp_path / "s"),
    )
    trainer.processing_class.padding_side = trainer.data_collator.tokenizer.padding_side = "left"
    if model_type in ("bert", "electra"):
        with pytest.raises(
            UserError, match=r"found padding_side='left' and an encoder that counts positions"
        ):
            trainer.train()
        assert trainer.state.global_step == 0
    else:
        trainer.train()
        assert trainer.state.global_step > 0


def test_padding_on_the_left_is_refused_of_states_that_another_run_has_stored(tmp_path: Path) -> None:
    config = {"encoder_config": tiny_config("bert", DEPTH).to_dict()}

    def trainer(folder: str) -> LayerFusionTrainer:
        torch.manual_seed(0)
        return frozen_trainer(tmp_path / folder, build("concat-mean", **config), tmp_path / "states")

    trainer("right").train()
    left = trainer("left")
    left.processing_class.padding_side = left.data_collator.tokenizer.padding_side = "left"
    with pytest.raises(UserError, match=r"found padding_side='left' and an encoder that counts positions"):
        left.train()
    assert left.state.global_step == 0
