"""R-Drop by its equations."""

import torch
from torch.nn import functional as F

from hf_layerfusion.regularizers.rdrop import RDrop
from hf_layerfusion.regularizers.regularizer import regularized_pass
from tests.regularizers.small import DROPOUT, batch, classifier, gradients


def test_by_the_equations():
    model, inputs = classifier(**DROPOUT).double(), batch()
    torch.manual_seed(4)
    first, second = model(**inputs), model(**inputs)
    p, q = first.logits.log_softmax(-1), second.logits.log_softmax(-1)
    both = F.kl_div(p, q, reduction="batchmean", log_target=True)
    both = both + F.kl_div(q, p, reduction="batchmean", log_target=True)
    paper = first.loss + second.loss + 3.0 * both / 2
    expected = gradients(model, paper / 2)
    torch.manual_seed(4)
    result = regularized_pass(model, inputs, [RDrop(weight=1.5)])
    torch.testing.assert_close(result.losses[""], paper / 2, rtol=1e-10, atol=0)
    torch.testing.assert_close(result.logs["rdrop"], (both / 2).detach(), rtol=1e-10, atol=0)
    for name, gradient in gradients(model, result.losses[""]).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12)


def test_without_dropout_nothing_is_added():
    model, inputs = classifier(), batch()
    result = regularized_pass(model, inputs, [RDrop()])
    assert result.logs["rdrop"] == 0
    assert torch.equal(result.losses[""], result.outputs["loss"])
