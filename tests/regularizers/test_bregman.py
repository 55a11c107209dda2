"""The Bregman term by its definition, with a teacher that is a model of its own."""

import pytest
import torch

from hf_layerfusion.errors import UserError
from hf_layerfusion.regularizers.bregman import Bregman
from hf_layerfusion.regularizers.regularizer import regularized_pass
from hf_layerfusion.regularizers.task_outputs import symmetric_kl
from tests.regularizers.small import DROPOUT, batch, classifier, fused_classifier, gradients


def stepped(model, size):
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter += size * torch.sin(torch.arange(parameter.numel()) + index).view_as(parameter)


@pytest.mark.parametrize("build", [classifier, fused_classifier])
def test_by_the_equations(build):
    model, inputs = build().double(), batch()
    term = Bregman(weight=2.0, momentum=0.75)
    assert (
        regularized_pass(model, inputs, [term]).logs["bregman"] == 0
    )  # at the start, the teacher is the model
    weights = [[each.detach().clone() for each in model.parameters()]]
    for _ in range(3):
        stepped(model, 0.05)
        term.after_step(model)
        weights.append([each.detach().clone() for each in model.parameters()])
    teacher = build().double()
    with torch.no_grad():
        for index, parameter in enumerate(teacher.parameters()):
            average = weights[0][index]
            for later in weights[1:]:
                average = 0.25 * later[index] + 0.75 * average
            parameter.copy_(average)
        target = teacher(**inputs).logits
    outputs = model(**inputs)
    value = symmetric_kl(outputs.logits, target).mean()
    expected = gradients(model, outputs.loss + 2 * value)
    result = regularized_pass(model, inputs, [term])
    assert value > 1e-4
    assert result.logs["bregman"].item() == pytest.approx(value.item(), rel=1e-9)
    for name, gradient in gradients(model, result.losses[""]).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12)


def test_the_teacher_sees_the_same_dropout_masks():
    model, inputs = classifier(**DROPOUT), batch()
    assert regularized_pass(model, inputs, [Bregman()]).logs["bregman"] == 0


def test_autocast_gives_the_teacher_its_own_weights():
    model, inputs = classifier(), batch()
    term = Bregman(momentum=1.0)
    term.after_step(model)
    stepped(model, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert regularized_pass(model, inputs, [term]).logs["bregman"] > 0.01


def test_a_resumed_run_has_the_same_teacher():
    model, inputs = classifier(), batch()
    term, resumed = Bregman(momentum=0.5), Bregman(momentum=0.5)
    term.after_step(model)
    stepped(model, 0.1)
    term.after_step(model)
    resumed.load_state_dict(term.state_dict())
    expected = regularized_pass(model, inputs, [term]).logs["bregman"]
    assert expected > 0
    assert regularized_pass(model, inputs, [resumed]).logs["bregman"] == expected


def test_frozen_weights_have_no_copy():
    model = classifier()
    model.bert.requires_grad_(False)
    term = Bregman()
    term.after_step(model)
    assert term.state_dict().keys() == {"classifier.weight", "classifier.bias"}


def test_weights_that_are_unfrozen_later_are_compared_with_what_they_were():
    model, inputs = classifier(), batch()
    model.bert.requires_grad_(False)
    late, term = Bregman(momentum=1.0), Bregman(momentum=1.0)
    regularized_pass(model, inputs, [late])
    model.bert.requires_grad_()
    for each in (late, term):
        assert regularized_pass(model, inputs, [each]).logs["bregman"] == 0
    stepped(model, 0.1)
    expected = regularized_pass(model, inputs, [term]).logs["bregman"]
    assert expected > 0
    assert regularized_pass(model, inputs, [late]).logs["bregman"] == expected


def test_a_teacher_of_another_model_is_refused():
    model, term = classifier(), Bregman()
    term.after_step(model)
    model.classifier.requires_grad_(False)
    with pytest.raises(UserError, match="found 2 others"):
        regularized_pass(model, batch(), [term])


def test_momentum_out_of_range():
    with pytest.raises(UserError, match=r"^Bregman: momentum must lie between 0 and 1; found 1.5"):
        Bregman(momentum=1.5)
