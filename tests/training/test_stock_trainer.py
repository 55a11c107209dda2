"""What is overridden and used of the stock Trainer, compared with the installed transformers."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
from transformers import Trainer

from hf_layerfusion.training import stock_trainer
from hf_layerfusion.training.pretraining import PretrainingTrainer
from hf_layerfusion.training.stock_trainer import ATTRIBUTES, CALLED, OVERRIDDEN, PrivateMember
from hf_layerfusion.training.trainer import LayerFusionTrainer

FOLDER = Path(stock_trainer.__file__).parent
STOCK = {name for name in vars(Trainer) if not name.startswith("__") or name == "__init__"}
SOURCE = inspect.getsource(Trainer)


def overridden(kind: type[Trainer] = LayerFusionTrainer) -> set[str]:
    """The names of the stock members that a Trainer or a class between overrides."""
    ours = kind.__mro__[: kind.__mro__.index(Trainer)]
    return {name for each in ours for name in vars(each) if name in STOCK and callable(vars(each)[name])}


def parameters(function: object) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]  # type: ignore[arg-type]


def test_few_members_are_overridden() -> None:
    """Each may break with a release of transformers: take a callback or an object before one more."""
    found = overridden()
    private = {name for name in found if name.startswith("_") and name != "__init__"}
    assert private == OVERRIDDEN.keys(), "list private members in stock_trainer.OVERRIDDEN, with the reason"
    assert (len(found), len(private)) <= (23, 5), sorted(found)
    assert overridden(PretrainingTrainer) - found == {"prediction_step"}


@pytest.mark.parametrize("name", sorted(OVERRIDDEN | CALLED))
def test_private_methods_have_the_signatures_that_are_relied_on(name: str) -> None:
    member = (OVERRIDDEN | CALLED)[name]
    installed = getattr(Trainer, name, None)
    assert installed is not None, f"Trainer.{name} is gone; needed because: {member.reason}"
    assert tuple(parameters(installed)) == member.parameters, f"the signature of Trainer.{name} has changed"


@pytest.mark.parametrize("name", sorted(overridden() | overridden(PretrainingTrainer)))
def test_overrides_take_what_the_stock_methods_take(name: str) -> None:
    stock = inspect.signature(getattr(Trainer, name)).parameters
    for kind in (LayerFusionTrainer, PretrainingTrainer):
        ours = inspect.signature(getattr(kind, name)).parameters
        if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in ours.values()):
            continue
        assert list(ours)[: len(stock)] == list(stock), f"the signature of Trainer.{name} has changed"
        for each in stock.values():
            assert ours[each.name].default == each.default, f"a default of Trainer.{name} has changed"


@pytest.mark.parametrize("name", sorted(ATTRIBUTES))
def test_private_attributes_are_there(name: str) -> None:
    assert f"self.{name} = " in SOURCE or f"self.{name}: " in SOURCE, (
        f"Trainer.{name} is gone: {ATTRIBUTES[name]}"
    )


def test_no_other_private_member_is_used() -> None:
    known = OVERRIDDEN.keys() | CALLED.keys() | ATTRIBUTES.keys()
    own = {name for kind in (LayerFusionTrainer, PretrainingTrainer) for name in vars(kind)}
    stock = {name for name in STOCK if name.startswith("_") and not name.startswith("__")}
    stock |= {
        node.attr
        for node in ast.walk(ast.parse(SOURCE))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    used: dict[str, str] = {}
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in stock:
                used[node.attr] = path.name
    assert used.keys() - (own - OVERRIDDEN.keys()) <= known, "list it in stock_trainer, with the reason"
    assert known - OVERRIDDEN.keys() <= used.keys(), "no longer used: take it off the list"


def test_every_member_says_why() -> None:
    for name, member in (OVERRIDDEN | CALLED).items():
        assert isinstance(member, PrivateMember)
        assert member.reason.endswith(".") and member.missing.endswith("."), name
