from __future__ import annotations

import pytest
import torch

from hf_layerfusion.modeling.fusion_grouped import GroupedFuser, consecutive_groups


def test_groups_of_table_1() -> None:
    assert consecutive_groups(12, 3) == ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11))
    assert consecutive_groups(12, 1) == (tuple(range(12)),)
    assert consecutive_groups(2, 2) == ((0,), (1,))


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
