from __future__ import annotations

import pytest
import torch
from transformers import AutoModel

from hf_layerfusion import BertForGRUFusionClassification, GRUFusionConfig
from hf_layerfusion.modeling.fusion_grouped import GroupedFuser, consecutive_groups
from tests.tiny import tiny_config


def test_groups_of_table_1() -> None:
    assert consecutive_groups(12, 3) == ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11))
    assert consecutive_groups(12, 1) == (tuple(range(12)),)
    assert consecutive_groups(2, 2) == ((0,), (1,))


@pytest.mark.parametrize("fusion", ["cat", "share"])
def test_four_groups_of_twelve_layers(fusion: str) -> None:
    """BERT-cat-4 and BERT-share-4 (GRUBERT, Table 1), which need more than six layers: each group's features are of
    layers 1-3, 4-6, 7-9 or 10-12 alone, and all layers are trained."""
    encoder = AutoModel.from_config(tiny_config("bert", 12))
    settings = {"fusion": fusion, "num_groups": 4, "fusion_hidden_size": 5, "num_labels": 2}
    model = BertForGRUFusionClassification(
        GRUFusionConfig(encoder_config=encoder.config.to_dict(), **settings)
    )
    fuser = model.base_model.fuser
    assert len(fuser.cells) == (4 if fusion == "cat" else 1)
    states = tuple(torch.randn(2, 6, 32) for _ in range(12))
    whole = fuser(states, None).unflatten(-1, (4, 10))
    for layer in range(12):
        others = (*states[:layer], torch.randn(2, 6, 32), *states[layer + 1 :])
        same = (
            torch.isclose(fuser(others, None).unflatten(-1, (4, 10)), whole).all(dim=-1).all(dim=0).all(dim=0)
        )
        assert same.tolist() == [group != layer // 3 for group in range(4)]
    model(input_ids=torch.tensor([[2, 7, 8, 9, 3]]), labels=torch.tensor([1])).loss.backward()
    layers = model.base_model.encoder.encoder.layer
    assert all(layer.output.dense.weight.grad.abs().sum() > 0 for layer in layers)


@pytest.mark.parametrize(("depth", "num_groups"), [(12, 5), (4, 8)])
def test_number_of_groups_must_divide_the_depth(depth: int, num_groups: int) -> None:
    with pytest.raises(
        ValueError, match=rf"`num_groups`.* {num_groups} groups for {depth} layers.*choose"
    ) as error:
        consecutive_groups(depth, num_groups)
    assert "\n" not in str(error.value)


def test_linear_by_hand() -> None:
    fuser = GroupedFuser(((0, 1), (2, 3)), 1, 1, "linear", shared=True).double()
    cell = fuser.cells[0]
    with torch.no_grad():
        cell.weight.copy_(torch.tensor([[1.0, 10.0], [2.0, 0.5]]))
        cell.bias.copy_(torch.tensor([0.25, 0.0]))
    states = tuple(torch.full((1, 1, 1), value, dtype=torch.float64) for value in (1.0, 2.0, 3.0, 4.0))
    # 1 + 20 + .25, 2 + 1, 3 + 40 + .25, 6 + 2: the first group's two features, then the second's.
    assert fuser(states, None).flatten().tolist() == [21.25, 3.0, 43.25, 8.0]


def test_cat_with_equal_cells_is_share() -> None:
    groups = consecutive_groups(4, 2)
    share = GroupedFuser(groups, 3, 2, "gru", shared=True)
    cat = GroupedFuser(groups, 3, 2, "gru", shared=False)
    for cell in cat.cells:
        cell.load_state_dict(share.cells[0].state_dict())
    states = tuple(torch.randn(3, 5, 3) for _ in range(4))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 0, 1, 1]])
    for given in (None, mask):
        torch.testing.assert_close(cat(states, given), share(states, given))
