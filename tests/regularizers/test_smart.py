"""SMART against its equations, written out in float64 on inputs_embeds."""

import math

import pytest
import torch
from torch.nn import functional as F

from hf_layerfusion.errors import UserError
from hf_layerfusion.regularizers.regularizer import regularized_pass
from hf_layerfusion.regularizers.smart import Smart
from tests.regularizers.small import batch, classifier, gradients

LARGE = {"epsilon": 0.02, "sigma": 0.01, "eta": 0.03}


def reference(model, inputs, smart):
    """R_s as Algorithm 1 of Jiang et al. 2020 has it, text by text; the noise is drawn as the code does."""
    mask, ids = inputs["attention_mask"], inputs["input_ids"]
    x = model.get_input_embeddings()(ids)
    noise = torch.randn_like(x)
    total, radius = 0.0, 0.0
    for row in range(len(ids)):
        real = mask[row : row + 1]

        def answer(embedded, real=real):
            return model(inputs_embeds=embedded, attention_mask=real).logits

        def distance(first, second):
            if model.config.num_labels == 1:
                return (first - second).square().sum()
            p, q = first.log_softmax(-1), second.log_softmax(-1)
            return F.kl_div(p, q, reduction="sum", log_target=True) + F.kl_div(
                q, p, reduction="sum", log_target=True
            )

        own = x[row : row + 1]
        delta = smart.sigma * noise[row : row + 1].detach() * real[..., None]
        for _ in range(smart.steps):
            delta.requires_grad_()
            target = answer(own.detach()).detach()
            (gradient,) = torch.autograd.grad(distance(answer(own.detach() + delta), target), delta)
            gradient, delta = gradient * real[..., None], delta.detach()
            delta = delta + smart.eta * gradient / gradient.flatten().norm(smart.norm)
            if smart.norm == math.inf:
                delta = delta.clamp(-smart.epsilon, smart.epsilon)
            elif delta.norm() > smart.epsilon:
                delta = delta * smart.epsilon / delta.norm()
        total = total + distance(answer(own + delta), answer(own)) / len(ids)
        radius = max(radius, torch.linalg.vector_norm(delta, smart.norm, dim=(1, 2)).max().item())
    return total, radius


@pytest.mark.parametrize("num_labels", [3, 1], ids=["classes", "regression"])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("norm", [math.inf, 2], ids=["inf", "2"])
def test_by_the_equations(norm, steps, num_labels):
    model, inputs = classifier(num_labels=num_labels).double(), batch(num_labels=num_labels)
    if num_labels == 1:
        inputs["labels"] = inputs["labels"].double()
    smart = Smart(weight=5.0, norm=norm, steps=steps, **LARGE)
    torch.manual_seed(2)
    value, radius = reference(model, inputs, smart)
    expected = gradients(model, model(**inputs).loss + 5 * value)
    torch.manual_seed(2)
    result = regularized_pass(model, inputs, [smart])
    assert value > 1e-6
    assert result.logs["smart"].item() == pytest.approx(value.item(), rel=1e-9)
    assert result.logs["smart_radius"].item() == pytest.approx(radius, rel=1e-9)
    found = gradients(model, result.losses[""])
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-10)


def test_it_stays_in_its_ball():
    radius = regularized_pass(classifier(), batch(), [Smart()]).logs["smart_radius"]
    assert 0.99e-6 < radius <= 1.001e-6


def test_the_ascent_ascends():
    model, inputs = classifier().double(), batch(16)
    found = []
    for steps in (1, 5):
        torch.manual_seed(0)
        smart = Smart(epsilon=0.05, sigma=0.01, eta=0.02, steps=steps, norm=2)
        found.append(regularized_pass(model, inputs, [smart]).logs["smart"])
    assert found[1] > 2 * found[0]


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("mode", ["paper", "smart-pytorch"])
def test_padding_gets_no_noise(mode, left, monkeypatch):
    model, inputs = classifier(), batch(left=left)
    seen = []
    forward = type(model).forward

    def spy(self, **kwargs):
        handle = self.get_input_embeddings().register_forward_hook(lambda m, a, output: seen.append(output))
        output = forward(self, **kwargs)
        handle.remove()
        return output

    monkeypatch.setattr(type(model), "forward", spy)
    regularized_pass(model, inputs, [Smart(mode=mode, **LARGE)])
    clean, *noisy = seen
    real = inputs["attention_mask"].bool()
    assert len(noisy) == 2
    for each in noisy:
        changed = (each != clean).any(-1)
        assert torch.equal(changed, real)


def test_several_labels_a_text():
    model, inputs = classifier(problem_type="multi_label_classification").double(), batch()
    inputs["labels"] = torch.randint(2, (4, 3)).double()
    result = regularized_pass(model, inputs, [Smart(**LARGE)])
    assert result.logs["smart"] > 0
    assert all(torch.isfinite(each).all() for each in gradients(model, result.losses[""]).values())


def test_a_gradient_of_zero_is_no_trouble():
    model, inputs = classifier(), batch()
    torch.nn.init.zeros_(model.classifier.weight)
    result = regularized_pass(model, inputs, [Smart()])
    assert result.logs["smart"] == 0
    assert all(torch.isfinite(each).all() for each in gradients(model, result.losses[""]).values())


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"epsilon": 0.0},
        {"sigma": math.inf},
        {"eta": -1.0},
        {"norm": 1},
        {"mode": "mtdnn"},
        {"same_dropout": 1},
        {"layer": -1},
        {"every": 0},
        {"weight": -1.0},
        {"weight": math.nan},
    ],
)
def test_settings_out_of_range(settings):
    ((name, value),) = settings.items()
    with pytest.raises(UserError, match=rf"^Smart: {name} must .*found {value!r}$"):
        Smart(**settings)


def test_defaults_are_serbertus():
    smart = Smart()
    assert (smart.steps, smart.epsilon, smart.sigma, smart.eta, smart.norm) == (1, 1e-6, 1e-5, 1e-3, math.inf)
