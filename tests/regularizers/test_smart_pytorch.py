"""SMART's mode `smart-pytorch` against the functions of that package, written out anew from what they compute."""

import math

import pytest
import torch
from torch.nn import functional as F

from hf_layerfusion.regularizers.regularizer import regularized_pass
from hf_layerfusion.regularizers.smart import Smart
from tests.regularizers.small import DROPOUT, batch, classifier, gradients


def kl(of, to, reduction):
    """KL(of ‖ to) of two logits."""
    return F.kl_div(F.log_softmax(to, dim=-1), F.softmax(of, dim=-1), reduction=reduction)


def reference(model, inputs, steps, *, total="sum", fixed=True, one_sided=True, new_masks=True):
    """The loss of a batch without SMART, and SMART's. Each keyword is one choice of the public code."""
    mask = inputs["attention_mask"]

    def answer(embedded):
        return model(inputs_embeds=embedded, attention_mask=mask).logits

    def stop(logits):
        return logits.detach() if fixed else logits

    def rerun():
        if not new_masks:
            torch.set_rng_state(start)

    embedded = model.get_input_embeddings()(inputs["input_ids"])
    start = torch.get_rng_state()
    clean = answer(embedded)
    regression = model.config.num_labels == 1
    loss = (
        F.mse_loss(clean.squeeze(-1), inputs["labels"])
        if regression
        else F.cross_entropy(clean, inputs["labels"])
    )
    noise = 1e-5 * torch.randn_like(embedded)
    for _ in range(steps):
        noise = noise.detach().requires_grad_()
        rerun()
        perturbed, target = answer(embedded.detach() + noise), clean.detach()
        if regression:
            distance = F.mse_loss(perturbed, target)
        else:
            distance = kl(target, perturbed, "batchmean")
            distance = distance if one_sided else distance + kl(perturbed, target, "batchmean")
        (gradient,) = torch.autograd.grad(distance, noise)
        step = noise + 1e-3 * gradient
        noise = (step / (step.abs().amax(dim=-1, keepdim=True) + 1e-6)).detach()
    rerun()
    perturbed = answer(embedded + noise)
    if regression:
        return loss, F.mse_loss(perturbed, clean)
    return loss, kl(stop(clean), perturbed, total) + kl(stop(perturbed), clean, total)


def both(num_labels=3, steps=1, weight=5.0, **choices):
    """Value and gradients, expected and found."""
    model, inputs = classifier(num_labels=num_labels, **DROPOUT).double(), batch(5, num_labels=num_labels)
    if num_labels == 1:
        inputs["labels"] = inputs["labels"].double()
    torch.manual_seed(2)
    loss, value = reference(model, inputs, steps, **choices)
    expected = gradients(model, loss + weight * value)
    torch.manual_seed(2)
    result = regularized_pass(model, inputs, [Smart(weight=weight, mode="smart-pytorch", steps=steps)])
    found = gradients(model, result.losses[""])
    return value.detach(), expected, result.logs["smart"], found


@pytest.mark.parametrize("num_labels", [3, 1], ids=["classes", "regression"])
@pytest.mark.parametrize("steps", [1, 3])
def test_value_and_gradient_are_the_public_functions(steps, num_labels):
    value, expected, found_value, found = both(num_labels, steps)
    assert value > 1e-3
    assert found_value.item() == pytest.approx(value.item(), abs=1e-9)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("choices", "changes_value"),
    [
        ({"total": "batchmean"}, True),
        ({"fixed": False}, False),
        ({"one_sided": False, "steps": 3}, True),
        ({"new_masks": False}, True),
    ],
    ids=["sum", "fixed targets", "one-sided ascent", "new dropout masks"],
)
def test_each_choice_of_the_public_functions_matters(choices, changes_value):
    """Without this the test above could agree with code that makes another choice."""
    value, expected, found_value, found = both(**choices)
    assert (abs(found_value - value) > 1e-6) == changes_value
    assert max((found[name] - gradient).abs().max() for name, gradient in expected.items()) > 1e-6


def test_several_labels_a_text():
    """Not in the public code: as two classes for each label."""
    model = classifier(problem_type="multi_label_classification").double()
    inputs = batch() | {"labels": torch.randint(2, (4, 3)).double()}
    smart = Smart(mode="smart-pytorch")
    torch.manual_seed(2)
    found = regularized_pass(model, inputs, [smart])
    torch.manual_seed(2)
    clean = model(**inputs).logits
    noise = 1e-5 * torch.randn(4, 7, model.config.hidden_size, dtype=torch.float64)
    noise = (noise * inputs["attention_mask"][..., None]).requires_grad_()
    embedded = model.get_input_embeddings()(inputs["input_ids"])

    def two(logits):
        return torch.stack([logits, torch.zeros_like(logits)], dim=-1)

    def answer(noise):
        return model(inputs_embeds=embedded + noise, attention_mask=inputs["attention_mask"]).logits

    (gradient,) = torch.autograd.grad(kl(two(clean).detach(), two(answer(noise)), "batchmean"), noise)
    step = noise.detach() + 1e-3 * gradient
    perturbed = answer(step / (step.abs().amax(dim=-1, keepdim=True) + 1e-6))
    value = kl(two(clean.detach()), two(perturbed), "sum") + kl(two(perturbed.detach()), two(clean), "sum")
    assert found.logs["smart"].item() == pytest.approx(value.item(), rel=1e-9)
    expected = gradients(model, model(**inputs).loss + value)
    for name, gradient in gradients(model, found.losses[""]).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-6, atol=1e-9)


def test_tokens_move_by_one_in_the_norm():
    radius = regularized_pass(classifier(), batch(), [Smart(mode="smart-pytorch")]).logs["smart_radius"]
    assert 0.85 < radius <= 1  # sigma of 1e-5 beside an epsilon of 1e-6
    assert math.isclose(
        regularized_pass(classifier(), batch(), [Smart(mode="smart-pytorch", sigma=1.0)]).logs[
            "smart_radius"
        ],
        1,
        rel_tol=1e-5,
    )
