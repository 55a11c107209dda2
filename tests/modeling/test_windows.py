"""Tests of long texts in windows, against a tokenizer's own windows and ordinary models on each of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from transformers import pipeline

from hf_layerfusion import (
    BertForGRUFusionClassification,
    BertWithPoolingModule,
    GRUFusionConfig,
    LayerPoolingConfig,
)
from hf_layerfusion.ensembling.member_models import ONLY_TASK, MemberModel, Runtime
from hf_layerfusion.errors import UserError
from hf_layerfusion.export.onnx_export import export_onnx
from hf_layerfusion.modeling.windows import WINDOW_POOLINGS, WindowPooling, split_windows
from tests.modeling.cases import SMALL
from tests.tiny import tiny_config, tiny_tokenizer

SIZE, OVERLAP = 10, 3
LONG, SHORT = "a good day and a bad night of rain so very sad we now go on", "a good day"
WINDOWS = {"window_size": SIZE, "window_overlap": OVERLAP}


def pooling_model(**settings: Any) -> BertWithPoolingModule:
    torch.manual_seed(0)
    config = LayerPoolingConfig(
        encoder_config=tiny_config("bert"), num_labels=3, pooling="attention", **settings
    )
    return BertWithPoolingModule(config).eval().double()


def gru_model(**settings: Any) -> BertForGRUFusionClassification:
    torch.manual_seed(0)
    config = GRUFusionConfig(encoder_config=tiny_config("bert"), num_labels=3, **SMALL, **settings)
    return BertForGRUFusionClassification(config).eval().double()


def encoded(*texts: str, side: str = "right") -> dict[str, torch.Tensor]:
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = side
    return dict(tokenizer(list(texts), padding=True, return_tensors="pt", return_token_type_ids=False))


def tokenizer_windows(text: str) -> list[dict[str, torch.Tensor]]:
    """The windows that the tokenizer makes itself."""
    found = tiny_tokenizer()(
        text, truncation=True, max_length=SIZE, stride=OVERLAP, return_overflowing_tokens=True
    )
    return [{"input_ids": torch.tensor([ids])} for ids in found["input_ids"]]


@pytest.mark.parametrize("side", ["right", "left"])
def test_windows_are_those_of_the_tokenizer(side: str) -> None:
    batch = encoded(LONG, SHORT, LONG[:30], "", side=side)
    windows = split_windows(batch["attention_mask"], SIZE, OVERLAP, (1, 1))
    ids = windows.take(batch["input_ids"])
    assert ids is not None
    found = [row[mask.bool()].tolist() for row, mask in zip(ids, windows.mask, strict=True)]
    expected = [
        each["input_ids"][0].tolist()
        for text in (LONG, SHORT, LONG[:30], "")
        for each in tokenizer_windows(text)
    ]
    assert len(tokenizer_windows(LONG)) == 3
    assert found == expected
    assert windows.texts.tolist() == [0, 0, 0, 1] + [2] * (len(found) - 5) + [3]


def pool_by_hand(values: torch.Tensor, keys: torch.Tensor, pooling: str, query: Any) -> torch.Tensor:
    if pooling == "max":
        return values.amax(0, keepdim=True)
    if pooling == "mean":
        return values.mean(0, keepdim=True)
    return (keys @ query).softmax(0) @ values[None]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pooling", WINDOW_POOLINGS)
@torch.no_grad()
def test_a_text_of_three_windows_is_pooled_as_by_hand(pooling: str, side: str) -> None:
    batch = encoded(LONG, SHORT, side=side)
    batch["position_ids"] = None  # type: ignore[assignment]
    for build in (pooling_model, gru_model):
        model = build(**WINDOWS, window_pooling=pooling, residual_head="mean" if build is gru_model else None)
        torch.nn.init.normal_(model.classifier.out_proj.weight)
        if pooling == "attention":
            assert not model.windows.query.any()
            torch.nn.init.normal_(model.windows.query)
        query = model.windows.query
        ordinary = build(residual_head="mean" if build is gru_model else None)
        ordinary.load_state_dict(model.state_dict(), strict=False)
        answers = [ordinary(**each).logits[0] for each in tokenizer_windows(LONG)]
        if build is pooling_model:
            vectors = torch.cat([model.model(**each).pooler_output for each in tokenizer_windows(LONG)])
            expected = model.classifier(pool_by_hand(vectors, vectors, pooling, query))
        else:
            keys = []
            for each in tokenizer_windows(LONG):
                states = ordinary.downstream(ordinary.model(**each).last_hidden_state, None)
                keys.append(states.relu().mean(1)[0])
            expected = pool_by_hand(torch.stack(answers), torch.stack(keys), pooling, query)
        found = model(**batch).logits
        torch.testing.assert_close(found[:1], expected, rtol=0, atol=1e-10)
        alone = ordinary(**encoded(SHORT)).logits
        torch.testing.assert_close(found[1:], alone, rtol=0, atol=1e-10)
        # A batch of texts of one window each is answered as by the ordinary model, bit for bit.
        assert torch.equal(model(**encoded(SHORT)).logits, alone)


def test_training_and_reloading(tmp_path: Path) -> None:
    model = pooling_model(**WINDOWS, window_pooling="attention", residual_head="cls")
    batch = encoded(LONG, SHORT)
    torch.nn.init.normal_(model.classifier.out_proj.weight)
    torch.nn.init.normal_(model.windows.query)
    model(**batch, labels=torch.tensor([0, 1])).loss.backward()
    assert model.windows.query.grad.abs().max() > 0
    model.zero_grad()
    model(**encoded(SHORT), labels=torch.tensor([1])).loss.backward()
    assert model.windows.query.grad is not None  # DistributedDataParallel expects one of every weight
    model.save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 10**30
    tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["window_size"] == SIZE
    # The pipeline reads the whole text, which has more tokens than the encoder has positions.
    very_long = " ".join([LONG] * 10)
    classify = pipeline("text-classification", model=str(tmp_path), device="cpu", top_k=None)
    found = {each["label"]: each["score"] for each in classify([very_long])[0]}
    with torch.no_grad():
        expected = model(**encoded(very_long)).logits.softmax(-1)[0]
    assert [found[f"LABEL_{index}"] for index in range(3)] == pytest.approx(expected.tolist(), abs=1e-5)
    member = MemberModel(tmp_path, Runtime())
    logits = torch.from_numpy(member.predict(ONLY_TASK, [(very_long,)]))
    torch.testing.assert_close(logits.softmax(-1)[0].double(), expected, rtol=0, atol=1e-5)
    # So it does where the tokenizer was saved with the encoder's limit, as nothing says that texts are to be cut.
    tiny_tokenizer().save_pretrained(tmp_path)
    classify = pipeline("text-classification", model=str(tmp_path), device="cpu", top_k=None)
    assert {each["label"]: each["score"] for each in classify([very_long])[0]} == pytest.approx(found)


def test_every_input_of_the_tokens_is_cut_into_windows() -> None:
    for build in (pooling_model, gru_model):
        model, batch = build(**WINDOWS), encoded(LONG, SHORT)
        with pytest.raises(ValueError, match=r"`position_ids` must be left out for texts of more than"):
            model(**batch, position_ids=torch.arange(19).expand(2, -1))
    boxes = torch.randint(5, (2, 19, 4))
    windows = split_windows(batch["attention_mask"], SIZE, OVERLAP, (1, 1))
    taken = windows.take_all({"bbox": boxes, "output_attentions": True, "head_mask": torch.ones(4)})
    assert torch.equal(taken["bbox"], windows.take(boxes))
    assert (taken["output_attentions"], taken["head_mask"].shape) == (True, (4,))


class ExpInFloat32(TorchFunctionMode):
    """Computes exp in float32, as autocast does on a GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        return found.float() if func is torch.Tensor.exp else found


@pytest.mark.parametrize("pooling", WINDOW_POOLINGS)
def test_windows_are_pooled_under_autocast_of_a_gpu(pooling: str) -> None:
    pool = WindowPooling(pooling, 4)
    pool.reset_parameters()
    values, texts = torch.randn(3, 4), torch.tensor([0, 0, 1])
    with ExpInFloat32():
        found = pool(values.bfloat16(), values, texts)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), pool(values, values, texts), rtol=0, atol=0.05)


def test_what_windows_do_not_go_with(tmp_path: Path) -> None:
    bert = tiny_config("bert")
    for settings, message in (
        ({"window_size": 65}, r"`window_size` must lie between 3 and 64, the positions of 'bert', found 65"),
        (
            {"window_size": 10, "window_overlap": 8},
            r"`window_overlap` must lie between 0 and 7.*found 8; try 1",
        ),
        (
            {"window_size": 10, "window_overlap": 1, "window_affixes": [1]},
            r"`window_affixes` must be the numbers",
        ),
        ({**WINDOWS, "pair_features": ["concat"]}, r"must be None with `pair_features`.*leave out one"),
    ):
        with pytest.raises(ValueError, match=message):
            LayerPoolingConfig(encoder_config=bert, **settings)
    with pytest.raises(ValueError, match=r"must be None with `mask_padding=False`"):
        GRUFusionConfig(encoder_config=bert, mask_padding=False, **WINDOWS)
    with pytest.raises(UserError, match=r"found window_size=10.*export a model without windows"):
        export_onnx(pooling_model(**WINDOWS), tiny_tokenizer(), tmp_path / "new")
