"""Linear probes that compare an encoder's layers with its last one, before anything is trained."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sklearn
from datasets import Dataset, IterableDataset
from huggingface_hub.constants import HF_HOME
from tqdm.auto import tqdm

from hf_layerfusion.ensembling.prediction_files import cached
from hf_layerfusion.errors import LOADING_ERRORS, UserError, one_line
from hf_layerfusion.evaluation import linear_probe
from hf_layerfusion.evaluation.linear_probe import LinearProbe, ProbeProblem, fit_linear_probe
from hf_layerfusion.evaluation.significance import Difference, from_draws, least_p_value
from hf_layerfusion.modeling.modeling_layer_pooling import LayerPoolingModel
from hf_layerfusion.probing.rows import Fold, ProbeRows, check_rows
from hf_layerfusion.probing.scores import SCORES, Score, bootstrap_scores
from hf_layerfusion.probing.settings import check_probe, load_settings, resolve_max_length, token_pooling
from hf_layerfusion.probing.vectors import TextVectors, read_vectors
from hf_layerfusion.training.state_cache import StatesTooLargeError

_READINGS = {1: {"": False}, 2: {"read jointly": False, "read apart": True}}


@dataclass(frozen=True)
class ProbeScore:
    """Score of a linear probe on the test rows.

    Attributes:
        layers: Layers that the probe uses; 1 is the first.
        pooling: Pooling of the tokens at each layer: `"cls"` (`"last"` for causal encoders) or `"mean"`.
        reading: Encoding of pairs: `"read jointly"` or `"read apart"`; otherwise empty.
        score: Score on the test rows.
        low: Lower end of the 95 % bootstrap interval over the test rows.
        high: Upper end of the interval.
        cv_score: Log-likelihood (or negative squared error) in cross-validation on the training rows, the criterion of
            every choice.
        strength: Strength of the L2 penalty.
    """

    layers: tuple[int, ...]
    pooling: str
    reading: str
    score: float
    low: float
    high: float
    cv_score: float
    strength: float


@dataclass
class LayerProbe:
    """Scores of linear probes of an encoder's layers, the result of `layer_probe`.

    Attributes:
        encoder: Name of the encoder.
        data: Name of the data.
        metric: `"accuracy"`, `"macro_f1"` or `"pearson"`.
        num_train: Number of training rows.
        num_test: Number of test rows. Without a test split these are the training rows, each predicted by probes that
            were fitted without it.
        layers: Score of each layer, from the first to the last.
        last: Score of the last layer; one of `layers`.
        best: Score of the best layer in cross-validation on the training rows; one of `layers`.
        all: Score of all layers together.
        gain: Difference between all layers and the last one, from a paired bootstrap over test rows.
        notes: Remarks about the rows, one sentence each.
    """

    encoder: str
    data: str
    metric: str
    num_train: int
    num_test: int
    layers: list[ProbeScore]
    last: ProbeScore
    best: ProbeScore
    all: ProbeScore
    gain: Difference
    notes: list[str] = field(default_factory=list)

    @property
    def advice(self) -> str:
        """One sentence that says whether to fuse the layers."""
        gain, unit = 100 * self.gain.difference, "points"
        reach = f"95 % interval {100 * self.gain.low:+.1f} to {100 * self.gain.high:+.1f}"
        if self.gain.low > 0:
            return f"All layers beat the last one by {gain:.1f} {unit} on this data ({reach}); fuse them."
        if self.gain.high < 0:
            return (
                f"The last layer beats all of them by {-gain:.1f} {unit} on this data ({reach}); keep to it."
            )
        return (
            f"All layers and the last one differ by {gain:+.1f} {unit} on this data, which is within noise ({reach}); "
            "the last layer may be enough."
        )

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the header and the rows of a table: each layer, then all layers together; scores times 100."""
        header = ["layers", f"{self.metric} x 100", "95 % interval", "tokens", "strength"]
        named = [(str(each.layers[0]), each) for each in self.layers] + [("all", self.all)]
        rows = []
        for name, each in named:
            name += " (last)" * (each is self.last) + " (best in training)" * (each is self.best)
            how = f"{each.pooling}, {each.reading}" if each.reading else each.pooling
            interval = f"{100 * each.low:.1f} to {100 * each.high:.1f}"
            rows.append([name, f"{100 * each.score:.1f}", interval, how, f"{each.strength:g}"])
        return header, rows

    def to_dict(self) -> dict[str, Any]:
        """Return the probe as a JSON-compatible dict, with its advice."""
        return {**asdict(self), "advice": self.advice}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> LayerProbe:
        """Return the probe from the dict made by `to_dict`."""

        def numbers(fields: Mapping[str, Any]) -> dict[str, Any]:  # JSON has null for what is not finite
            return {
                name: math.nan if value is None and name != "p_value" else value
                for name, value in fields.items()
            }

        def score(fields: Mapping[str, Any]) -> ProbeScore:
            return ProbeScore(**{**numbers(fields), "layers": tuple(fields["layers"])})

        fields = {name: value for name, value in content.items() if name != "advice"}
        layers = [score(each) for each in fields.pop("layers")]
        named = {name: score(fields.pop(name)) for name in ("last", "best", "all")}
        same = {
            name: next((each for each in layers if each == found), found) for name, found in named.items()
        }
        return cls(**fields | {"layers": layers, **same, "gain": Difference(**numbers(fields["gain"]))})


def layer_probe(
    encoder: str | os.PathLike[str],
    data: Dataset | Mapping[str, Dataset],
    *,
    text_columns: Sequence[str] = ("text",),
    label_column: str = "label",
    group_column: str | None = None,
    metric: str | None = None,
    name: str = "data",
    max_length: int | None = None,
    batch_size: int = 32,
    cache_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    **options: Any,
) -> LayerProbe:
    """Fit linear probes on each layer of a frozen encoder and on all of its layers together.

    The encoder processes each text once. The mean and the first token of every layer's states (the last token for a
    causal encoder) are cached in `cache_dir` in half precision, so that a second call takes seconds. The strength of
    the penalty, the pooling of the tokens and, for pairs, the encoding (jointly, or each text separately with the
    features `u`, `v`, `|u - v|` and `u * v`) are chosen by cross-validation on the training rows. The pooling is the
    one that is best for the last layer.

    Repeated training texts are left out: the first counts, with its label. `ClassLabel`s are compared by name.

    Args:
        encoder: Folder or Hub id of an encoder of any architecture that the package supports.
        data: Splits `"train"` and `"test"`, or training rows alone, which are then predicted in five folds.
        text_columns: One text column, or two for pairs.
        label_column: Column of classes (integers or strings) or values (floats).
        group_column: Column of the training rows whose equal values are never on both sides of a fold, for data without
            a test split.
        metric: `"accuracy"` (the default for classes), `"macro_f1"` or `"pearson"` (the default for values).
        name: Name of the data, for the report.
        max_length: Maximum number of tokens of a text, or of both texts of a jointly encoded pair; by default the limit
            of the encoder, at most 512.
        batch_size: Texts per batch.
        cache_dir: Folder of the cached states; by default `hf_layerfusion/states` next to the Hub's cache.
        seed: Seed of the folds and the bootstrap.
        **options: Options of `from_pretrained`, such as `revision`, `token` or `trust_remote_code`.

    Returns:
        The scores, with `advice` in one sentence. `plot_layer_probe` draws them.

    Raises:
        UserError: In the cases of `check_probe`, before the data are read. Before the encoder reads a text: if the data
            are a stream or lack columns, texts, labels or groups; if a label of the test split does not occur in the
            training rows; or if there is one class only or too few rows of a class, groups or rows for the folds.
            Later: if states are not finite in half precision, or the scores are undefined.
    """
    (found,) = probe_all(
        [encoder],
        {name: data},
        text_columns=text_columns,
        label_column=label_column,
        group_column=group_column,
        metric=metric,
        max_length=max_length,
        batch_size=batch_size,
        cache_dir=cache_dir,
        seed=seed,
        **options,
    )
    return found


def layer_probes(
    encoders: Sequence[str | os.PathLike[str]],
    data: Mapping[str, Dataset | Mapping[str, Dataset]],
    **settings: Any,
) -> list[LayerProbe]:
    """Probe several encoders on several data sets, all of which are checked first.

    Args:
        encoders: Folders or Hub ids.
        data: Data sets by name, each as for `layer_probe`; none may be called `"train"`, the name of a split.
        **settings: Arguments of `layer_probe`, for every data set.

    Returns:
        A probe for each pair of encoder and data set; for each data set, the encoder with the best score of all layers
        first.

    Raises:
        UserError: If there are no encoders or no data sets by name, or in the cases of `layer_probe`.
    """
    listed = [] if isinstance(encoders, str | os.PathLike) else list(encoders)
    if not listed:
        raise UserError(
            f"encoders must be a list of folders or Hub ids, found "
            f"{encoders if isinstance(encoders, str | os.PathLike) else 'none'}; give [encoder], or call layer_probe"
        )
    are_splits = isinstance(data, Mapping) and isinstance(data.get("train"), Dataset | IterableDataset)
    if are_splits or not isinstance(data, Mapping) or not data:
        found = "splits" if are_splits else type(data).__name__ if not isinstance(data, Mapping) else "none"
        raise UserError(
            f"data must be data sets by name, found {found}; give {{'name': data}}, or call layer_probe"
        )
    return probe_all(listed, data, **settings)


def probe_all(
    encoders: Sequence[str | os.PathLike[str]],
    data: Mapping[str, Any],
    *,
    text_columns: Sequence[str] = ("text",),
    label_column: str = "label",
    group_column: str | None = None,
    metric: str | None = None,
    max_length: int | None = None,
    batch_size: int = 32,
    cache_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    max_train_samples: int | None = None,
    **options: Any,
) -> list[LayerProbe]:
    """Check all encoders and data sets, then probe each encoder on each data set, as `layer_probes`.

    Args:
        encoders: Folders or Hub ids.
        data: Data sets by name.
        max_train_samples: Number of different training texts to draw from each data set; None for all.

    The other arguments are those of `layer_probe`.
    """
    columns: dict[str, Any] = {
        "text_columns": text_columns,
        "label_column": label_column,
        "group_column": group_column,
    }
    check_probe(
        encoders,
        **columns,
        metric=metric,
        max_length=max_length,
        batch_size=batch_size,
        seed=seed,
        **options,
    )
    checked = [
        check_rows(each, name, **columns, metric=metric, max_train_samples=max_train_samples, seed=seed)
        for name, each in data.items()
    ]
    folder = Path(HF_HOME) / "hf_layerfusion" / "states" if cache_dir is None else Path(cache_dir)
    found = []
    for rows in checked:
        probes = [
            _probe(encoder, rows, max_length, batch_size, folder, seed, options) for encoder in encoders
        ]
        found += sorted(probes, key=lambda probe: -probe.all.score)
    return found


def _probe(
    encoder: str | os.PathLike[str],
    rows: ProbeRows,
    max_length: int | None,
    batch_size: int,
    folder: Path,
    seed: int,
    options: Mapping[str, Any],
) -> LayerProbe:
    config, tokenizer = load_settings(encoder, **options)
    try:
        model = LayerPoolingModel.from_pretrained(
            encoder, pooling="concat", token_pooling=token_pooling(config), **options
        )
    except LOADING_ERRORS as error:
        raise UserError(f"encoder {encoder}: cannot be loaded: {one_line(error)}") from error
    targets, num_texts = rows.targets, len(rows.texts["train"].column_names)
    try:
        readings = {
            reading: read_vectors(
                model,
                tokenizer,
                list(rows.texts.values()),
                apart=apart,
                max_length=resolve_max_length(config, tokenizer, max_length, num_texts == 2),
                cache_dir=str(folder),
                batch_size=batch_size,
            )
            for reading, apart in _READINGS[num_texts].items()
        }
    except StatesTooLargeError as error:
        raise UserError(
            f"encoder {encoder}: a probe stores states in half precision, whose largest number is 65,504, found larger "
            "ones; probe another encoder"
        ) from error
    probes = _Probes(readings, targets, rows.problem, folder / "probes", seed)
    found = probes.run(rows.folds)
    tested = targets.get("test", targets["train"])
    report = _report(found, tested, SCORES[rows.metric], seed)
    cut = [
        f"{split}: {vectors.num_truncated:,} of {len(targets[split]):,} texts are cut off ({reading or 'at the limit'})"
        for reading, of_splits in readings.items()
        for split, vectors in zip(targets, of_splits, strict=True)
        if vectors.num_truncated
    ]
    return LayerProbe(
        str(encoder),
        rows.name,
        rows.metric,
        len(targets["train"]),
        len(tested),
        **report,
        notes=[*rows.notes, *cut],
    )


@dataclass
class _Fitted:
    """Predictions of a probe for the test rows, with the choices made."""

    predictions: npt.NDArray[Any]
    pooling: str
    reading: str
    cv_score: float
    strength: float


@dataclass
class _Probes:
    """Fitting of probes on each layer and on all layers, with the choice of pooling and pair encoding."""

    readings: dict[str, list[TextVectors]]
    targets: dict[str, npt.NDArray[Any]]
    problem: ProbeProblem
    cache: Path
    seed: int

    def run(self, folds: list[Fold] | None) -> dict[tuple[int, ...], _Fitted]:
        """Return the best probe of each layer and of all layers; with folds, chosen separately in each fold."""
        if folds is None:
            rows = np.arange(len(self.targets["train"]))
            return self._best(rows, None)
        parts = [self._best(train, test) for train, test in folds]
        order = np.argsort(np.concatenate([test for _, test in folds]))
        joined = {}
        for layers, first in parts[0].items():
            each = [part[layers] for part in parts]
            predictions = np.concatenate([fitted.predictions for fitted in each])[order]
            cv_score = float(np.mean([fitted.cv_score for fitted in each]))
            joined[layers] = _Fitted(predictions, first.pooling, first.reading, cv_score, first.strength)
        return joined

    def _best(
        self, train: npt.NDArray[np.int64], test: npt.NDArray[np.int64] | None
    ) -> dict[tuple[int, ...], _Fitted]:
        found: dict[tuple[int, ...], _Fitted] = {}
        depth = next(iter(self.readings.values()))[0].num_layers
        sets = [(depth - 1,), *((layer,) for layer in range(depth - 1)), tuple(range(depth))]
        total = len(self.readings) * (len(sets) + 1)
        with tqdm(total=total, desc="fitting probes", unit="probe") as progress:
            for reading, vectors in self.readings.items():
                pooling = ""
                for layers in sets:
                    fitted = []
                    for name in [pooling] if pooling else vectors[0].poolings:
                        fitted.append(self._fit(vectors, layers, name, reading, train, test))
                        progress.update()
                    best = max(fitted, key=lambda each: each.cv_score)
                    pooling = best.pooling
                    if layers not in found or best.cv_score > found[layers].cv_score:
                        found[layers] = best
        return {layers: found[layers] for layers in sorted(found, key=lambda each: (len(each), each))}

    def _fit(
        self,
        vectors: list[TextVectors],
        layers: tuple[int, ...],
        pooling: str,
        reading: str,
        train: npt.NDArray[np.int64],
        test: npt.NDArray[np.int64] | None,
    ) -> _Fitted:
        features = vectors[0].features(layers, pooling)
        unseen = vectors[1].features(layers, pooling) if test is None else features[test]
        probe = self._probe(layers, features[train], self.targets["train"][train])
        return _Fitted(probe.predictions(unseen), pooling, reading, probe.cv_score, probe.strength)

    def _probe(
        self, layers: tuple[int, ...], features: npt.NDArray[np.float32], targets: npt.NDArray[Any]
    ) -> LinearProbe:
        """Return the probe of features `[N, D]`, from the cache if it was fitted before."""
        count = 1 if self.problem == "regression" else int(self.targets["train"].max()) + 1

        def fit() -> npt.NDArray[np.float32]:
            try:
                probe = fit_linear_probe(features, targets, self.problem, num_classes=count, seed=self.seed)
            except ValueError as error:
                numbers = ", ".join(str(layer + 1) for layer in layers)
                raise UserError(f"probe of layer {numbers}: {error}") from error
            # One row per class and one with the other values, so that the cache holds a single array.
            rest = np.zeros(features.shape[1] + 1)
            rest[:2] = probe.strength, probe.cv_score
            return np.vstack([np.column_stack([probe.weight, probe.bias]), rest]).astype(np.float32)

        digest = sha256(np.ascontiguousarray(features).tobytes() + np.ascontiguousarray(targets).tobytes())
        key = (
            digest.hexdigest(),
            self.problem,
            count,
            self.seed,
            linear_probe.STRENGTHS,
            sklearn.__version__,
        )
        *rows, rest = cached(self.cache, key, fit, (count + 1, features.shape[1] + 1)).astype(np.float64)
        weight, bias = np.array(rows)[:, :-1], np.array(rows)[:, -1]
        return LinearProbe(weight, bias, float(rest[0]), float(rest[1]))


def _report(
    found: dict[tuple[int, ...], _Fitted], targets: npt.NDArray[Any], score: Score, seed: int
) -> dict[str, Any]:
    fitted = list(found.values())
    once = np.ones((1, len(targets)))
    points = [float(score(each.predictions, targets, once)[0]) for each in fitted]
    draws = bootstrap_scores(score, [each.predictions for each in fitted], targets, seed=seed)
    scores = []
    for layers, each, point, drawn in zip(found, fitted, points, draws, strict=True):
        low, high = np.quantile(drawn, [0.025, 0.975])
        numbers = tuple(layer + 1 for layer in layers)
        scores.append(
            ProbeScore(
                numbers,
                each.pooling,
                each.reading,
                point,
                float(low),
                float(high),
                each.cv_score,
                each.strength,
            )
        )
    *of_layers, of_all = scores
    differ = int((fitted[-1].predictions != fitted[-2].predictions).sum())
    gain = from_draws(points[-1] - points[-2], draws[-1] - draws[-2], least_p_value(differ))
    if not math.isfinite(gain.difference):
        raise UserError(
            "the probes' scores are undefined: their predictions or the test labels are all the same"
        )
    best = max(of_layers, key=lambda each: each.cv_score)
    return {"layers": of_layers, "last": of_layers[-1], "best": best, "all": of_all, "gain": gain}
