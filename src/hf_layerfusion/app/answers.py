"""Answers of a demo to a text or a file: scores, words and layers behind them, and a sentence for bad input."""

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from scipy.special import logit

from hf_layerfusion.app.predictors import Item, OneTask, Predictor, SeveralModels, TaskKind, open_predictor
from hf_layerfusion.data.arrow_tables import column_values
from hf_layerfusion.data.files import read_examples
from hf_layerfusion.errors import UserError, check_characters
from hf_layerfusion.evaluation.layer_use import logits_without_layers, mean_states
from hf_layerfusion.evaluation.predictions import write_predictions

__all__ = ["Demo"]

MOST_CHARACTERS = 20_000
MOST_WORDS = 48
MOST_ROWS = 10_000

OTHER_TEXTS = (
    "The train leaves at nine from the second platform.",
    "I would not buy this phone again, the battery is dead by noon.",
    "What a lovely evening, thank you all for coming!",
    "The committee will meet on Thursday to discuss the budget.",
    "She closed the window because it had started to rain.",
    "Why does nobody answer my letters?",
    "A man plays the guitar in front of a small crowd.",
    "The plot is thin, but the actors make up for it.",
    "Prices rose by two percent in the last quarter.",
    "My brother finally passed his exam, we are so proud.",
    "This is the worst service I have ever had.",
    "The museum is closed on Mondays and holidays.",
    "They walked along the beach until the sun went down.",
    "Could you send me the report before lunch?",
    "The film was fine, neither good nor bad.",
    "He forgot his keys and had to wait outside for hours.",
    "The new road will connect the village with the city.",
    "I am afraid of what will happen next.",
    "Add the flour, stir, and bake it for half an hour.",
    "Our team won the cup for the first time in ten years!",
)
"""Texts whose mean stands in for a layer's states."""


@dataclass(frozen=True)
class TaskAnswer:
    """Answer of a task to a text or pair.

    Attributes:
        title: Task, and the text it is about if there are two; empty for a model of one task.
        kind: The task.
        scores: Probabilities in the order of the labels, or one value.
        words: Words of the text, or of both texts, with what each adds to the score of the answer, in the unit of the
            scores: the score minus that without the word. Empty if they were not measured.
        words_remark: Why they were not, or empty.
    """

    title: str
    kind: TaskKind
    scores: list[float]
    words: list[tuple[str, float]] = field(default_factory=list)
    words_remark: str = ""

    @property
    def best(self) -> int:
        """Index of the highest score."""
        return int(np.argmax(self.scores))

    def ranked(self) -> list[tuple[str, float]]:
        """Return the labels with their probabilities, the most likely first."""
        return sorted(zip(self.kind.labels, self.scores, strict=True), key=lambda pair: -pair[1])


@dataclass(frozen=True)
class LayerAnswer:
    """Use of a layer for a text.

    Attributes:
        number: The layer, from 1.
        effect: What it adds to the score of the answer: the score minus that with the layer's states replaced by their
            mean over `OTHER_TEXTS`.
        weight: Its weight in the fuser; None if the fuser has no weights.
    """

    number: int
    effect: float
    weight: float | None


@dataclass(frozen=True)
class Answer:
    """Answer of a demo to a text or pair.

    Attributes:
        tasks: Answers of the tasks.
        layers: Use of the layers; empty for a model that has no fuser.
        layers_remark: Why there are none, or empty.
    """

    tasks: list[TaskAnswer]
    layers: list[LayerAnswer]
    layers_remark: str = ""


class Demo:
    """A trained model behind a demo. Calls from several threads run one after the other.

    Args:
        name: Folder or Hub id, for the page.
        predictor: The model.
    """

    def __init__(self, name: str, predictor: Predictor):
        self.name, self.predictor = name, predictor
        self._lock = threading.Lock()
        self._means: dict[bool, dict[int, torch.Tensor]] = {}

    @classmethod
    def from_pretrained(
        cls, name_or_path: str, use_cpu: bool = False, trust_remote_code: bool = False
    ) -> "Demo":
        """Open a model; see `open_predictor`."""
        return cls(name_or_path, open_predictor(name_or_path, use_cpu, trust_remote_code))

    @property
    def tasks(self) -> dict[str, TaskKind]:
        """The tasks of the model by name."""
        return self.predictor.tasks

    @property
    def takes_pairs(self) -> bool:
        """True for a model that accepts a second text."""
        return any(kind.pair is not False for kind in self.tasks.values())

    @property
    def needs_pairs(self) -> bool:
        """True for a model that requires a second text."""
        return all(kind.pair for kind in self.tasks.values())

    def answer(self, text: str, second: str = "") -> Answer:
        """Answer a text, or a pair of texts.

        Raises:
            UserError: A text is empty, too long, or holds no characters; or the model takes another number of texts.
        """
        text, second = self._checked(text, second)
        with self._lock:
            questions = self._questions(text, second)
            effects = {name: self._words(item) for name, item in questions.items()}
            found = dict(zip(questions, self.predictor.scores(list(questions.values())), strict=True))
            tasks = [
                _task_answer(f"{task}{place}", kind, of_tasks[task], *effects[place], task)
                for task, kind in self.tasks.items()
                for place, of_tasks in found.items()
                if task in of_tasks
            ]
            layers, remark = self._layers(next(iter(questions.values())), tasks[0])
        return Answer(tasks, layers, remark)

    def predict_file(self, path: Path, text_column: str, text_pair_column: str, folder: Path) -> list[Path]:
        """Answer a file of texts, and write a csv file of predictions with the probability of each class.

        Args:
            path: csv, tsv, json, jsonl or parquet.
            text_column: Column of the texts.
            text_pair_column: Column of the second texts of pairs; empty for single texts.
            folder: Folder for `predictions.csv`; of several tasks `predictions-TASK.csv`.

        Raises:
            UserError: The file cannot be read, has no such column or too many rows, or the model takes another number
                of texts.
        """
        columns = [name.strip() for name in (text_column, text_pair_column) if name.strip()]
        if not text_column.strip():
            raise UserError("Name the column of the texts.")
        self._check_number(len(columns) == 2)
        try:
            rows = read_examples(path, text_columns=columns, label_column=None, label_required=False)
        except UserError as error:
            # The upload's folder is none of the user's.
            raise UserError(str(error).replace(str(path), path.name)) from error
        if len(rows) > MOST_ROWS:
            raise UserError(
                f"{path.name}: has {len(rows):,} rows, at most {MOST_ROWS:,} are answered here; use "
                "`hf-layerfusion predict` for more."
            )
        texts = {name: column_values(rows, name) for name in columns}
        items: list[Item] = [
            row[0] if len(row) == 1 else {"text": row[0], "text_pair": row[1]}
            for row in zip(*texts.values(), strict=True)
        ]
        with self._lock:
            found = self.predictor.scores(items)
        files = []
        for task in found[0]:
            kind = self.tasks[task]
            files.append(folder / (f"predictions-{_file_name(task)}.csv" if task else "predictions.csv"))
            write_predictions(
                files[-1],
                ids=rows["id"],
                texts=texts,
                logits=_logits(np.array([scores[task] for scores in found]), kind),
                problem_type=kind.problem_type,
                label_names=kind.labels,
                class_scores=True,
            )
        return files

    def _checked(self, text: str, second: str) -> tuple[str, str]:
        text, second = text or "", second or ""
        if not text.strip():
            raise UserError("Type a text first.")
        self._check_number(bool(second.strip()))
        for each, name in ((text, "The text"), (second, "The second text")):
            if len(each) > MOST_CHARACTERS:
                raise UserError(
                    f"{name} has {len(each):,} characters; at most {MOST_CHARACTERS:,} are read here. Shorten it."
                )
            check_characters(each, name)
        return text, second

    def _check_number(self, is_pair: bool) -> None:
        if is_pair and not self.takes_pairs:
            raise UserError("This model takes single texts; leave the second one out.")
        if not is_pair and self.needs_pairs:
            raise UserError("This model takes pairs of texts; give the second one too.")

    def _questions(self, text: str, second: str) -> dict[str, Item]:
        """Return what the model is asked, by what stands after the name of a task."""
        if not second.strip():
            return {"": text}
        pair: Item = {"text": text, "text_pair": second}
        if not any(kind.pair is False for kind in self.tasks.values()):
            return {"": pair}
        return {"": pair, ", first text": text, ", second text": second}

    def _words(self, item: Item) -> tuple[list[str], list[dict[str, list[float]]], str]:
        """Return the words of an item with the scores without each, or the reason why there are none."""
        texts = [item] if isinstance(item, str) else [item["text"], item["text_pair"]]
        spans = [(place, match) for place, text in enumerate(texts) for match in re.finditer(r"\S+", text)]
        words = [match.group() for _, match in spans]
        if len(words) > MOST_WORDS:
            return [], [], f"Words are weighed in texts of up to {MOST_WORDS} words; here are {len(words)}."
        if any(len(text.split()) < 2 for text in texts):
            return [], [], "Words are weighed in texts of two words or more."
        without: list[Item] = []
        for place, match in spans:
            cut = [*texts]
            cut[place] = " ".join(f"{cut[place][: match.start()]} {cut[place][match.end() :]}".split())
            without.append(cut[0] if isinstance(item, str) else {"text": cut[0], "text_pair": cut[1]})
        return words, self.predictor.scores(without), ""

    def _layers(self, item: Item, answer: TaskAnswer) -> tuple[list[LayerAnswer], str]:
        """Return the use of the layers for an item, or the reason why it is not measured."""
        if isinstance(self.predictor, SeveralModels):
            return [], "Each member of an ensemble uses its layers in its own way."
        if not isinstance(self.predictor, OneTask):
            return [], "A model of several tasks reads the last layer of its encoders alone."
        adapted = self.predictor.model
        model = adapted.get_base_model() if hasattr(adapted, "get_base_model") else adapted
        if not hasattr(model.base_model, "fuser"):
            return [], "This model reads the last layer of its encoder alone."
        is_pair = isinstance(item, dict)
        if is_pair not in self._means:
            others: list[Item] = list(OTHER_TEXTS)
            if is_pair:
                seconds = [*OTHER_TEXTS[1:], OTHER_TEXTS[0]]
                others = [
                    {"text": first, "text_pair": second}
                    for first, second in zip(OTHER_TEXTS, seconds, strict=True)
                ]
            self._means[is_pair] = mean_states(model, [self.predictor.inputs(other) for other in others])
        found = logits_without_layers(model, self.predictor.inputs(item), self._means[is_pair])
        whole = _probabilities(found.whole, answer.kind)[answer.best]
        return [
            LayerAnswer(
                number,
                float(whole - _probabilities(logits, answer.kind)[answer.best]),
                None if found.weights is None else float(found.weights[number][0]),
            )
            for number, logits in found.without.items()
        ], ""


def _task_answer(
    title: str,
    kind: TaskKind,
    scores: list[float],
    words: Sequence[str],
    without: Sequence[dict[str, list[float]]],
    remark: str,
    task: str,
) -> TaskAnswer:
    best = int(np.argmax(scores))
    effects = [scores[best] - of_tasks[task][best] for of_tasks in without]
    return TaskAnswer(title, kind, scores, list(zip(words, effects, strict=True)), remark)


def _probabilities(logits: torch.Tensor, kind: TaskKind) -> torch.Tensor:
    """Return the scores `[C]` of one row of logits `[1, C]`."""
    if kind.is_regression:
        return logits[0]
    is_multiple = kind.problem_type == "multi_label_classification"
    return logits[0].sigmoid() if is_multiple else logits[0].softmax(dim=-1)


def _logits(scores: np.ndarray, kind: TaskKind) -> np.ndarray:
    """Return logits `[N, C]` that give these scores."""
    if kind.is_regression:
        return scores
    bounded = np.clip(scores, 1e-12, 1 - 1e-12)
    return logit(bounded) if kind.problem_type == "multi_label_classification" else np.log(bounded)


def _file_name(task: str) -> str:
    return re.sub(r"[^\w-]+", "-", task)
