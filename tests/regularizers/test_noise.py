"""Noise at the word embeddings and behind a layer: nothing changes with zeros, and padding gets none."""

import pytest
import torch
from torch import nn
from transformers import AutoModel

from hf_layerfusion.errors import UserError
from hf_layerfusion.regularizers.forward_passes import ForwardPasses
from hf_layerfusion.regularizers.noise_sites import EmbeddingNoise
from tests.regularizers.small import DROPOUT, batch, classifier, fused_classifier
from tests.tiny import MODEL_TYPES

# ALBERT's layers are one, run again and again.
LAYERED = [name for name in MODEL_TYPES if name != "albert"]


def zeros(passes, layer=0):
    return [torch.zeros_like(site.state) for site in passes.injector(layer).sites]


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_zero_noise_is_the_plain_pass(model_type, left):
    model, inputs = classifier(model_type), batch(left=left)
    layers = [0] if model_type == "albert" else [0, 1]
    torch.manual_seed(1)
    plain = model(**inputs)
    torch.manual_seed(1)
    passes = ForwardPasses(model, inputs, layers)
    assert torch.equal(passes.outputs["logits"], plain.logits)
    for layer in layers:
        logits = passes.rerun(zeros(passes, layer), layer)["logits"]
        assert torch.equal(logits, plain.logits)
        noise = [torch.randn_like(each) for each in zeros(passes, layer)]
        assert not torch.allclose(passes.rerun(noise, layer)["logits"], plain.logits, atol=1e-3)


def test_zero_noise_is_the_plain_pass_of_a_fused_model():
    model, inputs = fused_classifier(), batch()
    passes = ForwardPasses(model, inputs, [0, 1, 3])
    for layer in (0, 1, 3):
        assert torch.equal(passes.rerun(zeros(passes, layer), layer)["logits"], passes.outputs["logits"])


def test_noise_at_the_embeddings_is_that_of_inputs_embeds():
    # BERT numbers positions from 0, padding or not: the two ways must agree.
    model, inputs = classifier(), batch()
    passes = ForwardPasses(model, inputs, [0])
    (noise,) = [torch.randn_like(each) for each in zeros(passes)]
    embedded = model.get_input_embeddings()(inputs["input_ids"]) + noise
    expected = model(inputs_embeds=embedded, attention_mask=inputs["attention_mask"]).logits
    torch.testing.assert_close(passes.rerun([noise])["logits"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_noise_behind_a_layer_is_added_to_its_output(layer):
    model, inputs = classifier(layers=4), batch()
    passes = ForwardPasses(model, inputs, [layer])
    (noise,) = [torch.randn_like(each) for each in zeros(passes, layer)]
    handle = model.bert.encoder.layer[layer - 1].register_forward_hook(lambda m, a, output: output + noise)
    expected = model(**inputs).logits
    handle.remove()
    assert torch.equal(passes.rerun([noise], layer)["logits"], expected)


def test_layers_below_the_noise_are_not_run_again():
    model, inputs = classifier(layers=4), batch()
    passes = ForwardPasses(model, inputs, [3])
    runs = [0] * 4
    for index, layer in enumerate(model.bert.encoder.layer):
        layer.output.register_forward_hook(lambda *_, index=index: runs.__setitem__(index, runs[index] + 1))
    passes.rerun(zeros(passes, 3), 3)
    assert runs == [0, 0, 0, 1]
    model(**inputs)
    assert runs == [1, 1, 1, 2]


@pytest.mark.parametrize("model_type", LAYERED)
def test_masks_of_the_places(model_type):
    model, inputs = classifier(model_type), batch(left=True)
    for layer in (0, 1):
        (site,) = ForwardPasses(model, inputs, [layer]).injector(layer).sites
        assert torch.equal(site.mask[..., 0].long(), inputs["attention_mask"])


@pytest.mark.parametrize("layer", [0, 1])
def test_dropout_masks_come_back_behind_the_noise(layer):
    model, inputs = classifier(**DROPOUT), batch()
    passes = ForwardPasses(model, inputs, [layer])
    assert torch.equal(passes.rerun(zeros(passes, layer), layer)["logits"], passes.outputs["logits"])
    other = passes.rerun(zeros(passes, layer), layer, same_dropout=False)["logits"]
    assert not torch.allclose(other, passes.outputs["logits"], atol=1e-3)


def test_hooks_are_gone_after_an_error():
    model = classifier()
    injector = EmbeddingNoise(model)
    with pytest.raises(KeyError), injector.recording():
        raise KeyError
    assert not model.get_input_embeddings()._forward_hooks
    assert not model.bert._forward_pre_hooks
    assert not injector.sites


def test_half_precision_weights_are_refused():
    model, inputs = classifier().to(torch.bfloat16), batch()
    with pytest.raises(UserError, match=r"bfloat16.*dtype=float32"):
        ForwardPasses(model, inputs, [0])


def test_embeddings_in_place_of_ids_are_refused():
    model, inputs = classifier(), batch()
    inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids"))
    with pytest.raises(UserError, match="give the model input_ids"):
        ForwardPasses(model, inputs, [0])


def test_a_mask_of_another_shape_is_refused():
    model, inputs = classifier(), batch()
    inputs["attention_mask"] = inputs["attention_mask"][:, None, None, :].bool()
    with pytest.raises(UserError, match=r"attention_mask \[4, 7\].*\[4, 1, 1, 7\]"):
        ForwardPasses(model, inputs, [0])


def test_a_model_that_is_none_of_transformers_is_refused():
    with pytest.raises(UserError, match="PreTrainedModel, found Linear"):
        ForwardPasses(nn.Linear(2, 2), {}, [0])


@pytest.mark.parametrize(("model_type", "layer"), [("bert", 2), ("albert", 1)])
def test_layers_that_cannot_be_had_are_refused(model_type, layer):
    with pytest.raises(UserError, match="0"):
        ForwardPasses(classifier(model_type), batch(), [layer])


def test_the_base_model_of_an_encoder_alone_has_no_logits():
    model, inputs = AutoModel.from_config(classifier().config), batch()
    del inputs["labels"]
    passes = ForwardPasses(model, inputs, [0])
    with pytest.raises(UserError, match="'logits'"):
        passes.logits(passes.outputs)


def test_texts_that_the_encoder_pads_itself():
    """Longformer pads to a multiple of its window."""
    window = {"attention_window": 4, "pad_token_id": 0, "max_position_embeddings": 64}
    model, inputs = classifier("longformer", **window), batch()
    passes = ForwardPasses(model, inputs, [0, 1])
    for layer in (0, 1):
        (site,) = passes.injector(layer).sites
        assert site.mask.shape == (4, 8, 1)
        assert torch.equal(site.mask[:, :7, 0].long(), inputs["attention_mask"])
        assert not site.mask[:, 7].any()
        assert torch.equal(passes.rerun(zeros(passes, layer), layer)["logits"], passes.outputs["logits"])
