import dataclasses

import numpy as np
import pytest
from matplotlib import colors, image
from matplotlib.figure import Figure

from hf_layerfusion.evaluation.layer_use import LayerUse
from hf_layerfusion.evaluation.plots.layer_plots import plot_layer_pca, plot_layer_use

USE = LayerUse(
    num_texts=1200,
    loss=0.4,
    accuracy=0.85,
    loss_rise=[0.01, 0.0, 0.2, 0.5, 0.3, 0.02],
    accuracy_drop=[0.0, -0.005, 0.05, 0.125, 0.08, 0.01],
    weights=[0.05, 0.05, 0.2, 0.4, 0.25, 0.05],
    weights_by_class={"good $": [0.1, 0.0, 0.1, 0.3, 0.4, 0.1], "bad": [0.0, 0.1, 0.3, 0.5, 0.1, 0.0]},
)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figures = []
    save = Figure.savefig

    def keep(self, *args, **kwargs):
        figures.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def assert_readable_png(path):
    pixels = image.imread(path)
    assert min(pixels.shape[:2]) > 300
    assert pixels.std() > 0.02


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_legends_name_classes_that_start_with_an_underscore(tmp_path, drawn):
    weights = {"_hidden": USE.weights, "bad": USE.weights}
    plot_layer_use(dataclasses.replace(USE, weights_by_class=weights), tmp_path / "use.png")
    assert {name.strip() for name in legend(drawn[0])} == {"all texts", "_hidden", "bad"}


def test_bars_of_the_drop_and_a_line_of_the_weights(tmp_path, drawn):
    path = tmp_path / "use.png"
    plot_layer_use(USE, path)
    assert_readable_png(path)
    drops, weights = drawn[0].axes
    assert [bar.get_height() for bar in drops.patches] == pytest.approx([0, -0.5, 5, 12.5, 8, 1])
    assert [bar.get_x() + bar.get_width() / 2 for bar in drops.patches] == pytest.approx([1, 2, 3, 4, 5, 6])
    assert drops.get_title().endswith("1,200 texts")
    lines = {line.get_label(): line.get_xydata().T for line in weights.lines}
    assert lines.keys() == {"all texts", "good $", "bad"}
    for name, shares in (
        ("all texts", [5, 5, 20, 40, 25, 5]),
        ("good $", [10, 0, 10, 30, 40, 10]),
        ("bad", [0, 10, 30, 50, 10, 0]),
    ):
        np.testing.assert_allclose(lines[name], [range(1, 7), shares])
    assert weights.get_ylim()[0] == 0


def test_without_weights_or_accuracy_bars_of_the_loss(tmp_path, drawn):
    plot_layer_use(
        dataclasses.replace(USE, accuracy=None, accuracy_drop=None, weights=None), tmp_path / "u.png"
    )
    (axes,) = drawn[0].axes
    assert [bar.get_height() for bar in axes.patches] == USE.loss_rise
    assert axes.get_ylabel() == "rise in loss"


def planted_states(layer_of_classes, classes=3, texts=60, layers=6, width=16):
    """Noise, but for one layer (counted from 0) where the classes lie in a row, far apart."""
    rng = np.random.default_rng(0)
    labels = np.arange(texts) % classes
    states = rng.normal(size=(texts, layers, width)).astype(np.float32)
    direction = rng.normal(size=width)
    states[:, layer_of_classes] += 8 * labels[:, None] * direction / np.linalg.norm(direction)
    return states, labels


def test_pca_of_each_layer_and_model_coloured_by_class(tmp_path, drawn):
    plain, labels = planted_states(5)
    pooled, _ = planted_states(2)
    path = tmp_path / "pca.png"
    names = ["positive", "neutral", "negative $"]
    plot_layer_pca({"plain, epoch 1": plain, "bert-lstm, epoch 1": pooled}, labels, names, path, range(7, 13))
    assert_readable_png(path)
    panels = np.array(drawn[0].axes).reshape(2, 6)
    assert [axes.get_title() for axes in panels[0]] == [f"layer {layer}" for layer in range(7, 13)]
    assert [row[0].get_ylabel() for row in panels] == ["plain, epoch 1", "bert-lstm, epoch 1"]
    assert legend(drawn[0]) == names

    found = [
        [bool(abs(np.corrcoef(axes.collections[0].get_offsets()[:, 0], labels)[0, 1]) > 0.9) for axes in row]
        for row in panels
    ]
    assert found == [[False] * 5 + [True], [False, False, True, False, False, False]]

    shown = panels[0, 0].collections[0].get_facecolors()[:, :3]
    keys = [colors.to_rgb(handle.get_color()) for handle in drawn[0].legends[0].legend_handles]
    assert len(set(keys)) == 3
    np.testing.assert_allclose(shown, [keys[label] for label in labels])


def test_the_points_are_the_two_directions_of_most_variance(tmp_path, drawn):
    """Against the singular value decomposition of the centred states, up to a sign."""
    states, labels = planted_states(0, layers=1)
    plot_layer_pca({"model": states}, labels, ["a", "b", "c"], tmp_path / "p.png", [1])
    points = np.asarray(drawn[0].axes[0].collections[0].get_offsets())
    values = states[:, 0].astype(np.float64)
    u, s, _ = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(u[:, :2] * s[:2]), atol=1e-8)


def test_many_classes_have_a_colour_each(tmp_path, drawn):
    states, labels = planted_states(0, classes=12, layers=1)
    plot_layer_pca({"m": states}, labels, [str(i) for i in range(12)], tmp_path / "p.png", [1])
    keys = [colors.to_hex(handle.get_color()) for handle in drawn[0].legends[0].legend_handles]
    assert len(set(keys)) == 12


def test_refusals(tmp_path):
    states, labels = planted_states(0)
    path = tmp_path / "p.png"
    with pytest.raises(ValueError, match=r"'plain' must be \[60, 2, H\].*found \(60, 6, 16\)"):
        plot_layer_pca({"plain": states}, labels, "abc", path, [1, 2])
    with pytest.raises(ValueError, match=r"found \(59, 6, 16\)"):
        plot_layer_pca({"plain": states[1:]}, labels, "abc", path, range(6))
    with pytest.raises(ValueError, match="below 2; found 0 to 2"):
        plot_layer_pca({"plain": states}, labels, "ab", path, range(6))
    with pytest.raises(ValueError, match="found 0 models"):
        plot_layer_pca({}, labels, "abc", path, range(6))
    with pytest.raises(ValueError, match="1 texts"):
        plot_layer_pca({"plain": states[:1]}, labels[:1], "abc", path, range(6))
    assert not path.exists()
