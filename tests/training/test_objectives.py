"""Masked tokens, SimCSE and adjacent sentences: batches and losses against their definitions."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.objectives import (
    OBJECTIVES,
    AdjacentSentences,
    MaskedLanguageModeling,
    NextSentencePrediction,
    SimCSE,
    make_objective,
)
from hf_layerfusion.training.text_stream import DRAW
from tests.tiny import MODEL_TYPES, tiny_config, tiny_texts, tiny_tokenizer


def rows(count: int, seed: int = 0) -> list[dict]:
    """Encoded texts, each with a seed of its own, as a stream gives them."""
    tokenizer = tiny_tokenizer()
    return [
        {**tokenizer(text, return_special_tokens_mask=True), DRAW: 1000 * seed + number}
        for number, (text, _) in enumerate(tiny_texts(count, seed))
    ]


def test_of_real_tokens_15_percent_are_chosen_and_80_10_10_of_these_treated_alike():
    tokenizer = tiny_tokenizer()
    examples = rows(1500)
    batch = MaskedLanguageModeling().collator(tokenizer)(copy.deepcopy(examples))
    given = torch.full_like(batch["input_ids"], tokenizer.pad_token_id)
    special = torch.ones_like(given, dtype=torch.bool)
    for number, row in enumerate(examples):
        given[number, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
        special[number, : len(row["input_ids"])] = torch.tensor(row["special_tokens_mask"]).bool()
    chosen = batch["labels"] != -100
    assert not (chosen & special).any()
    assert torch.equal(batch["labels"][chosen], given[chosen])
    assert torch.equal(batch["input_ids"][~chosen], given[~chosen])
    share = (chosen.sum() / (~special).sum()).item()
    assert share == pytest.approx(0.15, abs=4 * (0.15 * 0.85 / (~special).sum().item()) ** 0.5)
    found, true = batch["input_ids"][chosen], given[chosen]
    masked = (found == tokenizer.mask_token_id).double().mean().item()
    other = ((found != tokenizer.mask_token_id) & (found != true)).double().mean().item()
    spread = 4 * (0.25 / len(true)) ** 0.5
    assert (masked, other) == (pytest.approx(0.8, abs=spread), pytest.approx(0.1, abs=spread))


def test_a_row_is_masked_by_its_own_seed_whatever_its_batch():
    collate = MaskedLanguageModeling().collator(tiny_tokenizer())
    whole = collate(rows(8))
    for number, row in enumerate(rows(8)):
        alone = collate([row])
        width = alone["input_ids"].shape[1]
        for name in ("input_ids", "labels", "attention_mask"):
            assert torch.equal(alone[name][0], whole[name][number, :width])
    others = collate([{**row, DRAW: row[DRAW] + 1} for row in rows(8)])
    assert not torch.equal(others["labels"], whole["labels"])


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_loss_and_gradients_are_those_of_the_model_s_own_pass(model_type):
    """The head sees chosen tokens alone; the model's own pass sees all. In float64."""
    model = AutoModelForMaskedLM.from_config(tiny_config(model_type, 2)).double().train()
    objective = MaskedLanguageModeling(mlm_probability=0.3)
    batch = objective.collator(tiny_tokenizer())(rows(6))
    batch.pop("token_type_ids", None)
    expected = model(**batch).loss
    expected.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    loss = objective.loss(model, batch)
    loss.backward()
    exact = 1e-6 if model_type == "modernbert" else 1e-12  # it takes its logits to fp32
    assert loss.item() == pytest.approx(expected.item(), rel=exact)
    for name, weight in model.named_parameters():
        if gradients[name] is None:
            assert weight.grad is None
        else:
            torch.testing.assert_close(weight.grad, gradients[name], rtol=1e3 * exact, atol=exact)
    assert not model.base_model._forward_hooks, "the model is left as it was"


def test_without_a_chosen_token_a_batch_gives_no_gradient():
    model = AutoModelForMaskedLM.from_config(tiny_config("bert", 1)).train()
    objective = MaskedLanguageModeling()
    batch = objective.collator(tiny_tokenizer())(rows(2))
    batch["labels"].fill_(-100)
    loss = objective.loss(model, batch)
    torch.where(torch.tensor(True), torch.tensor(0.0), loss * 0.5).backward()
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())


def definition(first: torch.Tensor, second: torch.Tensor, temperature: float) -> float:
    """Equation 1, pair by pair."""
    losses = []
    for row, vector in enumerate(first):
        scores = [torch.dot(vector, other) / (vector.norm() * other.norm()) for other in second]
        exponents = [torch.exp(score / temperature) for score in scores]
        losses.append(-torch.log(exponents[row] / sum(exponents)))
    return (sum(losses) / len(losses)).item()


@pytest.mark.parametrize("temperature", [0.05, 0.5])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_simcse_is_the_definition_over_two_passes_with_dropout(pooling, temperature):
    """The two passes are one over the batch twice: the same masks, drawn anew, must give the definition's value."""
    config = tiny_config("bert", 2, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    model = AutoModel.from_config(config).double().train()
    objective = make_objective({"simcse": {"pooling": pooling, "temperature": temperature}})
    batch = objective.collator(tiny_tokenizer())(rows(5))
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask"}
    torch.manual_seed(3)
    loss = objective.loss(model, batch)
    torch.manual_seed(3)
    states = model(**{name: value.repeat(2, 1) for name, value in batch.items()}).last_hidden_state
    mask = batch["attention_mask"].repeat(2, 1)
    vectors = torch.stack(
        [
            row[0] if pooling == "cls" else row[real.bool()].mean(0)
            for row, real in zip(states, mask, strict=True)
        ]
    )
    expected = definition(vectors[:5], vectors[5:], temperature)
    assert not torch.equal(vectors[:5], vectors[5:])
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_simcse_keeps_dropout_on_for_held_out_texts_and_leaves_the_mode():
    config = tiny_config("bert", 2, hidden_dropout_prob=0.5)
    model = AutoModel.from_config(config).eval()
    objective = SimCSE()
    batch = objective.collator(tiny_tokenizer())(rows(4))
    first, second = objective.loss(model, batch), objective.loss(model, batch)
    assert first != second
    assert not model.training


def test_a_trained_step_of_simcse_draws_texts_apart():
    """Gradient descent lowers the cosine to other texts relative to a text's own."""
    model = AutoModel.from_config(tiny_config("bert", 2, hidden_dropout_prob=0.1)).train()
    objective = SimCSE()
    batch = objective.collator(tiny_tokenizer())(rows(16))

    def uniformity() -> float:
        model.eval()
        with torch.no_grad():
            states = model(**batch).last_hidden_state
        model.train()
        vectors = F.normalize(objective.vectors(states, batch["attention_mask"]), dim=-1)
        return (vectors @ vectors.T).fill_diagonal_(0).mean().item()

    before = uniformity()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(10):
        optimizer.zero_grad()
        objective.loss(model, batch).backward()
        optimizer.step()
    assert uniformity() < before - 0.1


TEXTS = ["One a. Two b c. Three d.", "Alone here.", "Four e. Five f. Six g. Seven h.", "Eight i. Nine j."]


def test_segments_follow_each_other_and_the_other_one_is_of_another_text():
    objective = NextSentencePrediction(words=4)
    found = list(objective.examples(iter(TEXTS)))
    assert found == list(objective.examples(iter(TEXTS)))
    parts = ["One a. Two b c.", "Four e. Five f.", "Six g. Seven h.", "Eight i. Nine j."]
    assert [f"{first} {second}" for first, second, _ in found] == parts
    for first, _, other in found:
        own = next(text for text in TEXTS if first in text)
        assert other not in own and any(text.endswith(other) or other in text for text in TEXTS)
    assert list(objective.examples(TEXTS[:1])) == []


def test_masked_tokens_and_next_sentences_are_those_of_bert_s_own_pass_over_each_pair():
    """In float64; the loss of a batch is the mean of those of its rows, so that micro-batches add up to it."""
    tokenizer = tiny_tokenizer()
    objective = make_objective({"mlm_nsp": {"mlm_probability": 0.4}})
    texts = [
        f"{a}. {b}. {c}."
        for (a, _), (b, _), (c, _) in zip(*(tiny_texts(12, n) for n in range(3)), strict=True)
    ]
    columns = [list(column) for column in zip(*objective.examples(texts), strict=True)]
    encoded = objective.encode(tokenizer, 24, *columns)
    examples = [{name: encoded[name][row] for name in encoded} | {DRAW: 7 * row + 3} for row in range(12)]
    batch = objective.collator(tokenizer)(examples)
    taken = [(7 * row + 3) & 1 for row in range(12)]
    assert batch["next_sentence_label"].tolist() == taken
    for row, place in enumerate(taken):
        given = tokenizer(columns[0][row], columns[1 + place][row], truncation=True, max_length=24)[
            "input_ids"
        ]
        masked = batch["labels"][row] != -100
        shown = torch.where(masked, batch["labels"][row], batch["input_ids"][row])
        assert shown[: len(given)].tolist() == given
    model = AutoModelForPreTraining.from_config(tiny_config("bert", 2)).double().train()
    rows = [{name: values[row : row + 1] for name, values in batch.items()} for row in range(12)]
    assert all((row["labels"] != -100).any() for row in rows)
    expected = torch.stack([model(**row).loss for row in rows]).mean()
    found = objective.loss(model, batch)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    unmasked = rows[0] | {"labels": torch.full_like(rows[0]["labels"], -100)}
    assert torch.isfinite(objective.loss(model, unmasked))


PAIRS = [
    ("what a day", "nice music and sweet coffee"),
    ("nice music and sweet coffee", "an awful day at work"),
    ("i love it", "i hate it so much"),
    ("what a day", "bad"),
]
"""Sentences 0 to 2 of one text, whose middle one is in two pairs; and two pairs that begin alike."""


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_adjacent_sentences_are_told_from_those_of_other_pairs_in_both_directions(pooling):
    """Against the definition, sentence by sentence, in float64 and without padding."""
    tokenizer = tiny_tokenizer()
    model = AutoModel.from_config(tiny_config("bert", 2)).double().eval()
    objective = make_objective({"adjacent": {"pooling": pooling, "temperature": 0.5}})
    encoded = objective.encode(tokenizer, 16, *(list(side) for side in zip(*PAIRS, strict=True)))
    examples = [{name: encoded[name][row] for name in encoded} | {DRAW: row} for row in range(len(PAIRS))]
    batch = objective.collator(tokenizer)(examples)
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask"}
    assert batch["input_ids"].shape[:2] == (4, 2)

    def vector(sentence: str) -> torch.Tensor:
        with torch.no_grad():
            states = model(**tokenizer(sentence, return_tensors="pt")).last_hidden_state[0]
        return F.normalize(states[0] if pooling == "cls" else states.mean(0), dim=0)

    losses = []
    for place, (first, second) in enumerate(PAIRS):
        for own, candidates in ((first, [b for _, b in PAIRS]), (second, [a for a, _ in PAIRS])):
            scores = {
                other: (vector(own) @ vector(candidate) / 0.5).exp()
                for other, candidate in enumerate(candidates)
                if other == place or not {first, second} & set(PAIRS[other])
            }
            losses.append(-(scores[place] / sum(scores.values())).log())
    expected = torch.stack(losses).mean()
    assert objective.loss(model, batch).item() == pytest.approx(expected.item(), rel=1e-12)


def test_a_trained_step_brings_adjacent_sentences_together():
    objective = AdjacentSentences()
    texts = [text for text, _ in tiny_texts(24, seed=7)]
    tokenizer = tiny_tokenizer()
    encoded = objective.encode(tokenizer, 16, texts[::2], texts[1::2])
    batch = objective.collator(tokenizer)(
        [{name: encoded[name][row] for name in encoded} for row in range(12)]
    )
    torch.manual_seed(0)
    model = AutoModel.from_config(tiny_config("bert", 2)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = objective.loss(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("nsp", "objective must be one of mlm, mlm_nsp, simcse, adjacent, found 'nsp'"),
        ({"simcse": {"pooling": "max"}}, "pooling must be one of mean, cls, found 'max'"),
        ({"simcse": {"temperature": 0}}, "temperature must be a finite number above 0, found 0"),
        ({"mlm": {"mlm_probability": 1.5}}, "mlm_probability must lie between 0 and 1, found 1.5"),
        ({"mlm_nsp": {"words": 1}}, "words must be 2 or more, found 1"),
        ({"mlm": {"rate": 1}}, "objective: mlm: .*'rate'"),
        ({"mlm": {}, "simcse": {}}, "objective must be a name or one with settings"),
        (None, "objective must be a name or one with settings"),
    ],
)
def test_mistakes(asked, message):
    with pytest.raises(UserError, match=message):
        make_objective(asked)


def test_a_tokenizer_without_mask_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(UserError, match="needs a tokenizer with a mask token"):
        MaskedLanguageModeling().collator(tokenizer)


def test_every_objective_is_in_the_table_with_a_docstring():
    assert list(OBJECTIVES) == ["mlm", "mlm_nsp", "simcse", "adjacent"]
    assert all(each.__doc__ for each in OBJECTIVES.values())
