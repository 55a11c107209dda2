import warnings

import numpy as np
import pytest
from matplotlib import image
from matplotlib.figure import Figure

from hf_layerfusion.evaluation.plots.run_plots import (
    TableRow,
    plot_confusion_matrix,
    plot_regression,
    plot_table,
    plot_training_curves,
)

HISTORY = [
    {"loss": 0.70, "epoch": 0.5},
    {"loss": 0.60, "epoch": 1.0},
    {"eval_loss": 0.50, "eval_accuracy": 0.70, "epoch": 1.0},
    {"train_accuracy": 0.72, "epoch": 1.0},
    {"loss": 0.50, "epoch": 2.0},
    {"eval_loss": 0.40, "eval_accuracy": 0.80, "epoch": 2.0},
    {"eval_loss": 0.45, "eval_accuracy": 0.82, "epoch": 3.0},
    {"train_loss": 0.55, "train_runtime": 3.0, "epoch": 3.0},
    {"eval_loss": 0.40, "eval_accuracy": 0.80, "epoch": 3.0},  # the best checkpoint, evaluated at the end
]


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
    assert pixels.shape[0] > 200
    assert pixels.shape[1] > 400
    assert pixels.std() > 0.02


def lines(axes):
    return {line.get_label(): line for line in axes.lines}


def test_training_curves_show_losses_metric_and_best_epoch(tmp_path, drawn):
    path = tmp_path / "curves.png"
    plot_training_curves(HISTORY, path)
    assert_readable_png(path)
    losses, metrics = drawn[0].axes
    assert lines(losses)["training loss"].get_xydata().tolist() == [[0.5, 0.7], [1, 0.6], [2, 0.5]]
    assert lines(losses)["validation loss"].get_xydata().tolist() == [[1, 0.5], [2, 0.4], [3, 0.45]]
    assert lines(losses)["lowest validation loss (epoch 2)"].get_xdata() == [2, 2]
    assert lines(metrics)["validation accuracy"].get_xydata().tolist() == [[1, 0.7], [2, 0.8], [3, 0.82]]
    assert lines(metrics)["training accuracy"].get_xydata().tolist() == [[1, 0.72]]
    assert losses.get_xlabel() == "epoch"
    assert metrics.get_ylabel() == "accuracy"


def test_training_curves_without_the_metric_show_the_losses(tmp_path, drawn):
    plot_training_curves([{"loss": 0.6, "epoch": 1.0}], tmp_path / "c.png", metric="pearsonr")
    assert len(drawn[0].axes) == 1


@pytest.mark.parametrize("history", [[], [{"train_runtime": 1.0, "epoch": 1.0}], [{"loss": 0.1}]])
def test_training_curves_need_a_loss(tmp_path, history):
    with pytest.raises(ValueError, match="'loss' or 'eval_loss'"):
        plot_training_curves(history, tmp_path / "c.png")


def test_confusion_matrix_counts_and_percents(tmp_path, drawn):
    path = tmp_path / "confusion.png"
    plot_confusion_matrix([0, 0, 0, 1], [0, 0, 1, 1], ["sad", "happy"], path)
    assert_readable_png(path)
    cells = [text.get_text() for text in drawn[0].axes[0].texts]
    assert cells == ["2\n66.7 %", "1\n33.3 %", "0\n0.0 %", "1\n100.0 %"]
    assert [tick.get_text() for tick in drawn[0].axes[0].get_yticklabels()] == ["sad", "happy"]


def test_class_names_are_text_never_mathematics(tmp_path):
    names = [r"$\nonsense{$", "line\nbreak", "a very long name " * 20, "never true"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_confusion_matrix([0, 1, 2], [0, 1, 3], names, tmp_path / "c.png")
    assert_readable_png(tmp_path / "c.png")


@pytest.mark.parametrize(("labels", "predictions"), [([], []), ([0], [2]), ([-1], [0])])
def test_confusion_matrix_refuses(tmp_path, labels, predictions):
    with pytest.raises(ValueError, match="indices below 2"):
        plot_confusion_matrix(labels, predictions, ["a", "b"], tmp_path / "c.png")


def test_regression(tmp_path, drawn):
    path = tmp_path / "regression.png"
    plot_regression([0.0, 1.0, 2.0], np.array([[0.0], [2.0], [4.0]]), path)
    assert_readable_png(path)
    assert drawn[0].axes[0].get_title().endswith("3 texts, Pearson r = 1.000")
    plot_regression([1.0, 1.0], [0.5, 0.5], path)
    assert "Pearson" not in drawn[1].axes[0].get_title()
    with pytest.raises(ValueError, match="found 1 and 2"):
        plot_regression([1.0], [1.0, 2.0], path)


def test_table(tmp_path, drawn):
    path = tmp_path / "table.png"
    rows = [TableRow("plain", 84.1, 0.2), TableRow("share-3 $", 84.6, None), TableRow("vote", 85, (0.1, 0.5))]
    plot_table(rows, path, "accuracy, %", "Table 2")
    assert_readable_png(path)
    (axes,) = drawn[0].axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["plain", "share-3 $", "vote"]
    assert axes.get_xlabel() == "accuracy, %"
    bars = [container.has_xerr for container in axes.containers]
    assert bars == [True, False, True]
    ends = [axes.containers[row].lines[2][0].get_segments()[0][:, 0] for row in (0, 2)]
    np.testing.assert_allclose(ends, [[83.9, 84.3], [84.9, 85.5]])
    with pytest.raises(ValueError, match="must not be empty"):
        plot_table([], path, "x", "t")


def test_figures_leave_pyplot_alone(tmp_path):
    from matplotlib import pyplot, rcParams

    size = rcParams["font.size"]
    plot_regression([0.0, 1.0], [0.0, 1.0], tmp_path / "r.png")
    assert pyplot.get_fignums() == []
    assert rcParams["font.size"] == size


def test_a_confusion_matrix_of_many_classes_stays_small(tmp_path):
    labels = np.arange(400) % 60
    names = [f"class {number}" for number in range(60)]
    plot_confusion_matrix(labels, labels[::-1], names, tmp_path / "many.png")
    height, width = image.imread(tmp_path / "many.png").shape[:2]
    assert max(width, height) < 4500
