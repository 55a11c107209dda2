"""The call that adds terms to a loss, on one task and on several."""

import pytest
import torch

from hf_layerfusion import CerbertusConfig, CerbertusForMultitask
from hf_layerfusion.regularizers.registry import REGULARIZERS
from hf_layerfusion.regularizers.regularizer import regularized_pass
from hf_layerfusion.regularizers.smart import Smart
from tests.regularizers.small import batch, classifier, gradients
from tests.tiny import tiny_config

SMALL = {"smart": {"epsilon": 1e-2, "sigma": 1e-2}}
TASKS = {
    "sst": {"labels": ["a", "b", "c"], "dropout": 0.0},
    "sts": {
        "pair": True,
        "problem_type": "regression",
        "pair_encoding": "siamese",
        "features": ["concat"],
        "dropout": 0.0,
    },
}


def multitask_model(**settings):
    torch.manual_seed(0)
    encoder = tiny_config("bert", 2, initializer_range=0.2)
    return CerbertusForMultitask(CerbertusConfig(encoder_config=encoder, tasks=TASKS, **settings)).train()


def multitask_batches():
    single, pairs = batch(), batch(6, num_labels=1)
    apart = {name: pairs[name].view(3, 2, -1) for name in ("input_ids", "attention_mask")}
    return {"sst": single, "sts": apart | {"labels": pairs["labels"][:3]}}


def test_without_terms_it_is_the_plain_pass():
    model, inputs = classifier(), batch()
    result = regularized_pass(model, inputs, [])
    assert torch.equal(result.losses[""], model(**inputs).loss)
    assert result.logs == {}


@pytest.mark.parametrize("name", REGULARIZERS)
def test_a_weight_of_zero_changes_no_gradient(name):
    model, inputs = classifier(), batch()
    expected = gradients(model, model(**inputs).loss)
    result = regularized_pass(model, inputs, [REGULARIZERS[name](weight=0.0)])
    for parameter, gradient in gradients(model, result.losses[""]).items():
        torch.testing.assert_close(gradient, expected[parameter], rtol=1e-5, atol=1e-7)


def test_every_third_step_three_times_as_heavy():
    model, inputs = classifier(), batch()
    term = Smart(weight=2.0, every=3, **SMALL["smart"])
    added = []
    for step in range(7):
        result = regularized_pass(model, inputs, [term], step=step)
        added.append((result.losses[""] - result.outputs["loss"]).item())
        if step % 3 == 0:
            assert added[-1] == pytest.approx(6 * result.logs["smart"].item(), rel=1e-3)
        else:
            assert added[-1] == 0 and not result.logs
    assert all(added[step] > 0 for step in (0, 3, 6))


def test_terms_add_up_on_one_clean_pass(monkeypatch):
    model, inputs = classifier(), batch()
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    both = regularized_pass(model, inputs, [Smart(), REGULARIZERS["rdrop"]()])
    assert len(calls) == 4  # clean, ascent, perturbed, other masks
    assert both.logs.keys() == {"smart", "smart_radius", "rdrop"}


def test_losses_may_be_the_callers():
    model, inputs = classifier(), batch()
    result = regularized_pass(
        model, inputs, [REGULARIZERS["freelb"]()], losses=lambda batch, outputs: {"": 2 * outputs["loss"]}
    )
    excess = result.losses[""] - 2 * result.outputs["loss"]
    assert excess.item() == pytest.approx(result.logs["freelb"].item(), rel=1e-4)


@pytest.mark.parametrize("name", REGULARIZERS)
@pytest.mark.parametrize(
    "settings",
    [
        {"num_task_layers": 1},
        {"encoders": ["own"]},
        {"encoders": ["shared", "frozen"]},
    ],
    ids=["shared", "own", "frozen"],
)
def test_several_tasks_are_each_one_by_itself(settings, name):
    model, batches = multitask_model(**settings), multitask_batches()
    settings = SMALL.get(name, {})
    torch.manual_seed(0)
    together = regularized_pass(model, {"tasks": batches}, [REGULARIZERS[name](**settings)])
    assert together.losses.keys() == TASKS.keys()
    assert name in REGULARIZERS and {f"{name}_sst", f"{name}_sts"} <= together.logs.keys()
    for task, inputs in batches.items():
        alone = regularized_pass(model, {"task": task, **inputs}, [REGULARIZERS[name](**settings)])
        assert alone.losses.keys() == {task}
        if name == "freelb":  # no noise is drawn: the same ascent, text by text
            torch.testing.assert_close(alone.losses[task], together.losses[task], rtol=1e-4, atol=1e-5)
    got = gradients(model, torch.stack(list(together.losses.values())).sum())
    assert all(torch.isfinite(each).all() for each in got.values())
    torch.manual_seed(0)
    term = REGULARIZERS[name](**settings)
    lean = regularized_pass(model, {"tasks": batches}, [term], low_memory=True)
    for parameter, gradient in gradients(model, torch.stack(list(lean.losses.values())).sum()).items():
        torch.testing.assert_close(gradient, got[parameter], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layer", [0, 1])
def test_smart_of_several_tasks_behind_a_shared_layer(layer):
    model, batches = multitask_model(num_task_layers=1), multitask_batches()
    smart = Smart(layer=layer, **SMALL["smart"])
    result = regularized_pass(model, {"tasks": batches}, [smart])
    assert result.logs["smart_sst"] > 0 and result.logs["smart_sts"] > 0
