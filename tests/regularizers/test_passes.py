"""Further passes: dropout masks, the generators after them, gradients by noise, memory."""

import pytest
import torch

from hf_layerfusion.regularizers.bregman import Bregman
from hf_layerfusion.regularizers.forward_passes import ForwardPasses, frozen
from hf_layerfusion.regularizers.freelb import FreeLB
from hf_layerfusion.regularizers.rdrop import RDrop
from hf_layerfusion.regularizers.regularizer import regularized_pass
from hf_layerfusion.regularizers.smart import Smart
from tests.regularizers.small import DROPOUT, batch, classifier, fused_classifier, gradients
from tests.tiny import MODEL_TYPES


def test_the_generator_goes_on_as_if_there_were_no_further_pass():
    model, inputs = classifier(**DROPOUT), batch()
    torch.manual_seed(1)
    plain = model(**inputs).logits
    expected = torch.rand(5)
    torch.manual_seed(1)
    passes = ForwardPasses(model, inputs, [0])
    assert torch.equal(passes.outputs["logits"], plain)
    assert torch.equal(passes.rerun()["logits"], plain)
    noise = [torch.ones_like(site.state) for site in passes.injector(0).sites]
    passes.noise_gradient(noise, lambda outputs: outputs["logits"].sum())
    assert torch.equal(torch.rand(5), expected)


def test_gradient_by_noise():
    model, inputs = classifier().double(), batch()
    passes = ForwardPasses(model, inputs, [0])
    (site,) = passes.injector(0).sites
    noise = torch.randn_like(site.state, requires_grad=True)
    objective = passes.rerun([noise])["logits"].square().sum()
    (expected,) = torch.autograd.grad(objective, noise)
    (found,) = passes.noise_gradient([noise], lambda outputs: outputs["logits"].square().sum())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_was_frozen_stays_frozen():
    model = classifier()
    model.bert.embeddings.requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    with frozen(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()] == before
    with pytest.raises(KeyError), frozen(model):
        raise KeyError
    assert [parameter.requires_grad for parameter in model.parameters()] == before


CASES = {
    "smart": lambda: [Smart(epsilon=1e-2, sigma=1e-2)],
    "smart at a layer": lambda: [Smart(epsilon=1e-2, sigma=1e-2, layer=1)],
    "smart-pytorch": lambda: [Smart(mode="smart-pytorch", steps=2)],
    "smart and bregman": lambda: [Smart(epsilon=1e-2, sigma=1e-2), Bregman()],
    "rdrop": lambda: [RDrop()],
    "freelb": lambda: [FreeLB()],
}


@pytest.mark.parametrize("frozen_embeddings", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("build", [classifier, fused_classifier])
@pytest.mark.parametrize("case", CASES)
def test_low_memory_has_the_same_gradients(case, build, frozen_embeddings):
    model, inputs = build(**DROPOUT), batch()
    model.get_input_embeddings().requires_grad_(not frozen_embeddings)
    found = {}
    for low_memory in (False, True):
        torch.manual_seed(3)
        result = regularized_pass(model, inputs, CASES[case](), low_memory=low_memory)
        found[low_memory] = gradients(model, result.losses[""]), torch.rand(3)
    for name, gradient in found[False][0].items():
        torch.testing.assert_close(found[True][0][name], gradient, rtol=1e-5, atol=1e-7)
    assert torch.equal(found[True][1], found[False][1])


def kept_by(model, inputs, regularizers, low_memory):
    """Bytes of activations that wait for the backward."""
    kept = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = regularized_pass(model, inputs, regularizers, low_memory=low_memory)
    del result
    return sum(kept.values())


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_low_memory_keeps_little(model_type):
    model, inputs = classifier(model_type, layers=4), batch(8, 32)
    plain = kept_by(model, inputs, [], low_memory=False)
    assert kept_by(model, inputs, [RDrop()], low_memory=False) > 1.9 * plain
    assert kept_by(model, inputs, [RDrop()], low_memory=True) < 0.5 * plain
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("case", CASES)
def test_under_autocast(case):
    model, inputs = classifier(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        result = regularized_pass(model, inputs, CASES[case]())
        plain = model(**inputs).loss
    got = gradients(model, result.losses[""])
    assert all(torch.isfinite(each).all() for each in got.values())
    # No pass may leave weights behind that autocast copied without their gradient.
    with torch.autocast("cpu", torch.bfloat16):
        outputs = regularized_pass(model, inputs, CASES[case]()).outputs
    torch.testing.assert_close(outputs["loss"], plain)
    assert got["bert.encoder.layer.0.intermediate.dense.weight"].abs().max() > 0


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
@pytest.mark.parametrize("case", CASES)
def test_with_activation_checkpointing(case):
    model, inputs = classifier(**DROPOUT), batch()
    found = []
    for active in (False, True):
        if active:
            model.gradient_checkpointing_enable()
        torch.manual_seed(3)
        found.append(gradients(model, regularized_pass(model, inputs, CASES[case]()).losses[""]))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-7)
