"""FreeLB by its algorithm, written out on inputs_embeds."""

import pytest
import torch

from hf_layerfusion.errors import UserError
from hf_layerfusion.regularizers.freelb import FreeLB
from hf_layerfusion.regularizers.regularizer import regularized_pass
from tests.regularizers.small import batch, classifier, gradients


@pytest.mark.parametrize("epsilon", [0.15, 5.0], ids=["projected", "free"])
def test_by_the_algorithm(epsilon):
    model, inputs = classifier().double(), batch()
    mask, term = inputs["attention_mask"], FreeLB(passes=4, eta=0.1, epsilon=epsilon)
    delta = torch.zeros_like(model.get_input_embeddings()(inputs["input_ids"]))
    expected = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    mean = 0.0
    for _ in range(4):
        delta = delta.detach().requires_grad_()
        embedded = model.get_input_embeddings()(inputs["input_ids"]) + delta
        loss = model(inputs_embeds=embedded, attention_mask=mask, labels=inputs["labels"]).loss
        for name, gradient in gradients(model, loss).items():
            expected[name] += gradient / 4
        mean += loss.item() / 4
        ascent = delta.grad * mask[..., None]
        delta = delta + 0.1 * ascent / ascent.flatten(1).norm(dim=1)[:, None, None]
        sizes = delta.flatten(1).norm(dim=1)[:, None, None]
        delta = torch.where(sizes > epsilon, delta * epsilon / sizes, delta)
    result = regularized_pass(model, inputs, [term])
    assert result.losses[""].item() == pytest.approx(mean, rel=1e-10)
    assert result.logs["freelb"].item() == pytest.approx(mean - result.outputs["loss"].item(), rel=1e-9)
    assert result.logs["freelb"] > 0
    assert 0.9 * min(epsilon, 0.3) < result.logs["freelb_radius"] <= 1.0001 * min(epsilon, 0.3)
    for name, gradient in gradients(model, result.losses[""]).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-8, atol=1e-11)


def test_a_single_pass_is_refused():
    with pytest.raises(
        UserError, match=r"^FreeLB: passes must be 2 or more; the first is the clean one; found 1$"
    ):
        FreeLB(passes=1)
