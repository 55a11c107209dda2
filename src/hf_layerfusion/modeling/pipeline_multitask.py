"""Pipeline that predicts several tasks for raw texts in one pass."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.tokenization_utils_base import LARGE_INTEGER

from .layer_routing import Route
from .length_order import in_length_order
from .modeling_layer_fusion import HUB_OPTIONS
from .task_config import TaskConfig


class MultitaskPipeline:
    """Pipeline that predicts several tasks for texts or pairs of texts.

    Each sequence runs through the shared layers once, however many tasks use it. Texts with more tokens than the model
    accepts are truncated.

    Args:
        model: A `CerbertusForMultitask`; it is set to evaluation mode.
        tokenizer: Tokenizer of the model.
        batch_size: Number of inputs per forward pass.
        top_k: Number of classes to return for each text, in a list, the most likely first; None returns all. By
            default the most likely class is returned by itself, and all of a text that may have several.
        device: Device to move the model to; None leaves it where it is.

    Example:
        ```python
        predict = MultitaskPipeline.from_pretrained("outputs/multitask")
        predict("a moving film")  # {"sst5": {"label": "positive", "score": 0.61}}
        predict({"text": "A man sings.", "text_pair": "Someone sings."}, tasks=["quora", "sts"])
        ```
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        batch_size: int = 32,
        top_k: int | str | None = "",
        device: int | str | torch.device | None = None,
    ):
        if not hasattr(model, "forward_routes"):
            raise ValueError(
                f"`model` must be a CerbertusForMultitask, found a {type(model).__name__}; load one."
            )
        self.model = model.eval()
        if device is not None:
            self.model.to(device)
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.top_k = check_top_k(top_k)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str,
        batch_size: int = 32,
        top_k: int | str | None = "",
        device: int | str | torch.device | None = None,
        **kwargs: Any,
    ) -> "MultitaskPipeline":
        """Load a model and its tokenizer from a folder or the Hub.

        Args:
            name_or_path: Folder or Hub id.
            batch_size: As for the class, as are `top_k` and `device`.
            top_k: See above.
            device: See above.
            kwargs: Arguments of the model's `from_pretrained`. Hub options (`revision`, `token`, `subfolder`, …) are
                passed to the tokenizer too.
        """
        place = {name: kwargs[name] for name in (*HUB_OPTIONS, "trust_remote_code") if name in kwargs}
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, **place)
        model = AutoModelForSequenceClassification.from_pretrained(name_or_path, **kwargs)
        return cls(model, tokenizer, batch_size, top_k, device)

    @torch.no_grad()
    def __call__(
        self,
        inputs: str | dict[str, str] | Sequence[str | dict[str, str]],
        tasks: Sequence[str] | None = None,
        top_k: int | str | None = "",
    ) -> Any:
        """Predict tasks for one input or a list of inputs, which are batched by length.

        Args:
            inputs: A text, a pair `{"text": …, "text_pair": …}`, or a list of these.
            tasks: Names of the tasks; None predicts every task that the input allows.
            top_k: As for the class; by default that of the pipeline.

        Returns:
            For each input its predictions by task: `{"label", "score"}` of the most likely class; a list of these, the
                most likely first, with `top_k` or if a text may have several labels; or a number for a regression.
                Tasks on single texts are predicted for both texts of a pair, in a list.

        Raises:
            ValueError: If a task is unknown or needs a pair, if `top_k` is no number of classes, or if an input is
                neither a text nor a pair or contains half a surrogate pair, which tokenizers reject.
        """
        if isinstance(inputs, str | dict):
            return self([inputs], tasks, top_k)[0]
        top_k = self.top_k if top_k == "" else check_top_k(top_k)
        items = [text_and_pair(item) for item in inputs]
        for number, item in enumerate(items, start=1):
            check_characters(item, number)

        def predict(items: list[Any]) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = []
            for start in range(0, len(items), self.batch_size):
                found += self.predict_batch(items[start : start + self.batch_size], tasks, top_k)
            return found

        return in_length_order(predict, items)

    def predict_batch(
        self,
        items: list[tuple[str, str | None]],
        tasks: Sequence[str] | None,
        top_k: int | str | None = "",
    ) -> list[dict[str, Any]]:
        """Return the predictions for one batch of texts and pairs."""
        configs = self.model.config.task_configs
        rows: dict[tuple[str, str | None], int] = {}
        wanted: dict[str, list[int]] = {}
        # The inputs that the predictions of each task belong to, in the order of its rows.
        owners: dict[str, list[dict[str, Any]]] = {}
        found: list[dict[str, Any]] = [{} for _ in items]
        for (text, second), predictions in zip(items, found, strict=True):
            for name in self.select_tasks(configs, second is not None, tasks):
                first, other = self.clean(text, name), None if second is None else self.clean(second, name)
                sequences: list[tuple[str, str | None]] = [(first, other)]
                if other is not None and (configs[name].is_siamese or not configs[name].pair):
                    sequences = [(first, None), (other, None)]
                wanted.setdefault(name, []).extend(rows.setdefault(each, len(rows)) for each in sequences)
                times = 1 if configs[name].pair else len(sequences)
                owners.setdefault(name, []).extend([predictions] * times)
        batch = self.encode(list(rows))
        routes = [
            Route(name, torch.tensor(each, device=self.model.device), len(each))
            for name, each in wanted.items()
        ]
        for name, output in self.model.forward_routes(batch, routes).items():
            for predictions, logits in zip(owners[name], output.logits, strict=True):
                predictions.setdefault(name, []).append(format_prediction(logits, configs[name], top_k))
        return [
            {name: each[0] if len(each) == 1 else each for name, each in predictions.items()}
            for predictions in found
        ]

    def clean(self, text: str, task: str) -> str:
        """Return a text as a task's training texts were prepared. Here it is unchanged: code outside of this folder
        is needed for that."""
        return text

    def select_tasks(
        self, configs: dict[str, TaskConfig], is_pair: bool, tasks: Sequence[str] | None
    ) -> list[str]:
        """Return the tasks to predict for a text or a pair: the requested ones, or all possible ones."""
        named = list(configs) if tasks is None else list(tasks)
        unknown = sorted(set(named) - set(configs))
        if unknown:
            raise ValueError(f"`tasks` must be of {list(configs)}, found {unknown}; leave them out.")
        possible = [name for name in named if is_pair or not configs[name].pair]
        if not possible or (tasks is not None and len(possible) < len(named)):
            raise ValueError(
                f"`inputs` must be pairs for {sorted(set(named) - set(possible))}, found a single text; give "
                '{"text": …, "text_pair": …}.'
            )
        return possible

    def encode(self, sequences: list[tuple[str, str | None]]) -> dict[str, torch.Tensor]:
        """Tokenize texts, and pairs as one sequence, into one batch `[B, T]`."""
        encoded = [self.encode_one(*(text for text in texts if text is not None)) for texts in sequences]
        return dict(self.tokenizer.pad(encoded, return_tensors="pt").to(self.model.device))

    def encode_one(self, *texts: str) -> Any:
        """Tokenize a text, or a pair as one sequence, cut to the length that tokenizer and model allow."""
        limit = self.limit
        return self.tokenizer(*texts, **({} if limit is None else {"truncation": True, "max_length": limit}))

    @property
    def limit(self) -> int | None:
        """The most tokens of a sequence; None if neither tokenizer nor model state one."""
        # In a peft model, the model's own `base_model` is one level deeper.
        model = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        most = model.base_model.max_tokens
        length = self.tokenizer.model_max_length
        limit = length if most is None else min(length, most)
        # A tokenizer that knows no limit states a number that is too large for its backend.
        return limit if limit < LARGE_INTEGER else None


def text_and_pair(item: Any) -> tuple[str, str | None]:
    """Return the text and the second text of an input.

    Raises:
        ValueError: If it is neither a text nor a pair; a second text under another name would be ignored silently.
    """
    if isinstance(item, str):
        return item, None
    if not isinstance(item, dict) or "text" not in item or item.keys() - {"text", "text_pair"}:
        raise ValueError(
            f'`inputs` must be texts or pairs {{"text": …, "text_pair": …}}, found {item!r}; use these names.'
        )
    return item["text"], item.get("text_pair")


def check_characters(item: tuple[str, str | None], number: int) -> None:
    """Check that the texts of an input contain no half of a surrogate pair.

    Raises:
        ValueError: If they do; the message gives the number of the input, where the tokenizer would reject the whole
            batch.
    """
    # Same as `errors.check_characters`, which this folder must not import.
    for text in item:
        try:
            (text or "").encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"`inputs`: input {number}: the text holds {error.object[error.start]!r}, half a surrogate pair and no "
                "character; write the whole pair, or the character itself"
            ) from error


def check_top_k(top_k: Any) -> int | str | None:
    """Return `top_k` if it is a number of classes, None or the default.

    Raises:
        ValueError: If it is anything else.
    """
    if top_k is None or top_k == "" or (type(top_k) is int and top_k > 0):
        return top_k
    raise ValueError(f"`top_k` must be a number of 1 or more, found {top_k!r}; None returns all classes.")


def format_prediction(logits: torch.Tensor, task: TaskConfig, top_k: int | str | None = "") -> Any:
    """Return the prediction of a task for one input from its logits `[num_labels]`; see `MultitaskPipeline`."""
    if task.is_regression:
        return logits.item()
    is_multiple = task.problem_type == "multi_label_classification"
    scores = logits.float().sigmoid() if is_multiple else logits.float().softmax(dim=-1)
    ranked = [
        {"label": label, "score": score}
        for label, score in sorted(zip(task.labels, scores.tolist(), strict=True), key=lambda pair: -pair[1])
    ]
    if top_k == "":
        return ranked if is_multiple else ranked[0]
    return ranked[:top_k] if isinstance(top_k, int) else ranked
