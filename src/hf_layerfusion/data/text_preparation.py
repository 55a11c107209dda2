"""The preparation of texts that a model was trained with, kept in its tokenizer.

Steps that a tokenizer can express (user names, links, hashtags, lower case, white space) become part of its normalizer,
so that they run wherever the tokenizer does. All steps are named in `tokenizer_config.json`, from which
`cleaner_of` makes them again. Each of the expressible steps leaves a text alone that all steps have been applied to, so
that nothing changes where both run.
"""

import copy
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Regex, Tokenizer, normalizers

from hf_layerfusion.data.spelling import LINK, USER, SpellingCorrector
from hf_layerfusion.data.tweets import SPELLING, TweetPreprocessor
from hf_layerfusion.storage import replacing

__all__ = [
    "CleaningSteps",
    "clean_inputs",
    "cleaner_of",
    "copy_dictionaries",
    "copy_dictionary",
    "plain_tokenizer",
    "prepared_tokenizer",
    "saved_dictionary",
    "saved_preparation",
    "tokenizer_of_tasks",
]

KEY = "text_preparation"
"""Name of the settings in `tokenizer_config.json`."""

DICTIONARY_FILE = "spelling_dictionary"
"""Stem of the file beside a tokenizer that holds the user's own dictionary."""

# What `str.split` takes for white space, which is more than the libraries of regular expressions do.
_BLANKS = "".join(f"\\x{{{code:x}}}" for code in range(0x3001) if chr(code).isspace())


def _replaced(pattern: str, content: str) -> normalizers.Normalizer:
    pattern = pattern.replace(r"[^\s", f"[^{_BLANKS}").replace(r"\S", f"[^{_BLANKS}]")
    return normalizers.Replace(Regex(pattern), content)


_NORMALIZERS: Mapping[str, Callable[[], list[normalizers.Normalizer]]] = {
    "users": lambda: [_replaced(f"(?i){USER}", "xxuser")],
    "links": lambda: [_replaced(f"(?i){LINK}", "xxurl")],
    "bertweet_users": lambda: [_replaced(f"(?i){USER}", "@USER")],
    "bertweet_links": lambda: [_replaced(f"(?i){LINK}", "HTTPURL")],
    "hashtags": lambda: [_replaced(r"#(?=\w)", "# ")],
    "lowercase": lambda: [normalizers.Lowercase()],
    "whitespace": lambda: [_replaced(f"[{_BLANKS}]+", " "), _replaced(r"\A | \z", "")],
}


def expressible(steps: Sequence[str]) -> list[str]:
    """Return those of the steps that a tokenizer can express."""
    return [step for step in steps if step in _NORMALIZERS]


class CleaningSteps(NamedTuple):
    """Cleaning steps of texts, with their settings.

    Attributes:
        steps: Names of the steps, in their order.
        spelling_language: Of the step `spelling`.
        spelling_dictionary: The user's own dictionary for that step, if any.
    """

    steps: tuple[str, ...]
    spelling_language: str = "en"
    spelling_dictionary: str | None = None

    def settings(self, dictionary: str = DICTIONARY_FILE) -> dict[str, Any]:
        """Return the steps as JSON, with the dictionary as a file of this stem beside the tokenizer."""
        found: dict[str, Any] = {"steps": list(self.steps)}
        if SPELLING in self.steps:
            found["spelling_language"] = self.spelling_language
            if self.spelling_dictionary is not None:
                found["spelling_dictionary"] = f"{dictionary}{_suffix(self.spelling_dictionary)}"
        return found


def tokenizer_of_tasks(
    tokenizer: Any, tasks: Mapping[str, CleaningSteps], max_length: int | None = None, cut: str = "tail"
) -> Any:
    """Return the tokenizer to save with a model of several tasks; see `prepared_tokenizer`.

    It expresses what it can of the steps if they are the same for all tasks, else it only names each task's.

    Args:
        tokenizer: As for `prepared_tokenizer`, as is `max_length`.
        tasks: How the texts of each task were cleaned.
        max_length: See above.
        cut: The part of a long text that is removed, one of `truncation.CUTS`.
    """
    first, *others = tasks.values()
    is_shared = all(other == first for other in others)
    made = prepared_tokenizer(
        tokenizer,
        first.steps if is_shared else (),
        max_length,
        spelling_language=first.spelling_language,
        spelling_dictionary=first.spelling_dictionary,
    )
    settings = made.init_kwargs[KEY]
    if not is_shared:
        settings["tasks"] = {name: task.settings(f"{DICTIONARY_FILE}-{name}") for name, task in tasks.items()}
    if cut != "tail":
        settings["cut"] = cut
    return made


def prepared_tokenizer(
    tokenizer: Any,
    steps: Sequence[str],
    max_length: int | None = None,
    truncation: str = "longest_first",
    spelling_language: str = "en",
    spelling_dictionary: str | None = None,
) -> Any:
    """Return the tokenizer to save with a model: it prepares texts as far as it can, and says how the rest goes.

    Args:
        tokenizer: the one that the cleaned texts were encoded with, which is left as it is.
        steps: names of the cleaning steps, in their order.
        max_length: tokens that texts were cut to, the saved `model_max_length`.
        truncation: which text of a pair is cut.
        spelling_language: of the step `spelling`.
        spelling_dictionary: the user's own dictionary, which is to be copied beside the tokenizer; its suffix is kept.
    """
    settings: dict[str, Any] = {
        **CleaningSteps(tuple(steps), spelling_language, spelling_dictionary).settings(),
        "truncation": truncation,
        "encoder_max_length": tokenizer.model_max_length,
    }
    made = _with_normalizers(tokenizer, expressible(steps))
    settings["in_tokenizer"] = made is not None
    made = copy.deepcopy(tokenizer) if made is None else made
    made.init_kwargs[KEY] = settings
    if max_length is not None:
        made.model_max_length = min(max_length, tokenizer.model_max_length)
    return made


def _suffix(path: str) -> str:
    return ".json.gz" if path.endswith(".gz") else ".json"


def _with_normalizers(tokenizer: Any, steps: Sequence[str]) -> Any:
    """Return a copy of the tokenizer with the steps before its own normalizer; None where it cannot have them."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not steps:
        return None
    from transformers import PreTrainedTokenizerFast

    state = json.loads(backend.to_str())
    parts = [each for step in steps for each in _NORMALIZERS[step]()]
    ours = json.loads(_normalizer_state(parts))
    own = [state["normalizer"]] if state["normalizer"] else []
    state["normalizer"] = {"type": "Sequence", "normalizers": [*ours, *own]}
    # Not of the tokenizer's own class: some of these build their normalizer anew when they are loaded.
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        model_input_names=list(tokenizer.model_input_names),
        **tokenizer.special_tokens_map,
    )
    text = "It is 3 o'clock: (so what?)  Nein, ÄÖ 你好 #x"
    cleaned = TweetPreprocessor(list(steps)).clean(text)
    # All that they return: a tokenizer of ours gives characters too.
    return made if dict(made(text, cleaned)) == dict(tokenizer(cleaned, cleaned)) else None


def _normalizer_state(parts: Sequence[normalizers.Normalizer]) -> str:
    from tokenizers.models import WordLevel

    holder = Tokenizer(WordLevel({"a": 0}, unk_token="a"))
    holder.normalizer = normalizers.Sequence(list(parts))
    return json.dumps(json.loads(holder.to_str())["normalizer"]["normalizers"])


def saved_preparation(tokenizer: Any) -> dict[str, Any] | None:
    """Return what a tokenizer says of the preparation of texts; None for one that says nothing."""
    settings = getattr(tokenizer, "init_kwargs", {}).get(KEY)
    return settings if isinstance(settings, dict) else None


def plain_tokenizer(tokenizer: Any) -> Any:
    """Return the tokenizer as it was before `prepared_tokenizer`, for texts that are cleaned already."""
    settings = saved_preparation(tokenizer)
    if settings is None:
        return tokenizer
    tokenizer.init_kwargs.pop(KEY)
    tokenizer.model_max_length = settings["encoder_max_length"]
    if settings["in_tokenizer"]:
        count = sum(len(_NORMALIZERS[step]()) for step in expressible(settings["steps"]))
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        own = state["normalizer"]["normalizers"][count:]
        state["normalizer"] = own[0] if own else None
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    return tokenizer


def copy_dictionary(tokenizer: Any, dictionary: str | None, folder: Path, task: str | None = None) -> None:
    """Copy the user's own dictionary of spelling into the folder of a prepared tokenizer, if it has one.

    Args:
        tokenizer: The prepared tokenizer.
        dictionary: The file of the dictionary.
        folder: The folder.
        task: The task that the dictionary is of, if there are several.
    """
    settings = _settings_of(saved_preparation(tokenizer) or {}, task)
    if dictionary is not None and "spelling_dictionary" in settings:
        with replacing(folder / settings["spelling_dictionary"]) as partial:
            shutil.copyfile(dictionary, partial)


def _settings_of(settings: dict[str, Any], task: str | None) -> dict[str, Any]:
    """Return what saved settings say of a task; all tasks share settings that name none."""
    tasks = settings.get("tasks", {})
    return dict(tasks.get(task, settings))


def cleaner_of(tokenizer: Any, task: str | None = None) -> Callable[[str], str] | None:
    """Return the function that prepares a text as the training texts of a tokenizer's model were; None where they were
    left as they are.

    Args:
        tokenizer: The tokenizer.
        task: The task of the text, for a model of several.

    Raises:
        UserError: steps or a dictionary that are none.
    """
    settings = _settings_of(saved_preparation(tokenizer) or {}, task)
    if not settings.get("steps"):
        return None
    spelling = None
    if SPELLING in settings["steps"]:
        spelling = SpellingCorrector(settings["spelling_language"], saved_dictionary(tokenizer, task))
    clean = TweetPreprocessor(settings["steps"], spelling).clean
    return lambda text: clean(text) or text  # a text that cleaning empties stays as it is, as in training


def clean_inputs(inputs: Any, clean: Callable[[str], str] | None) -> Any:
    """Return the inputs of a pipeline, texts or pairs or lists of them, with every text prepared by `clean`, if any."""
    if clean is None:
        return inputs
    if isinstance(inputs, str):
        return clean(inputs)
    if isinstance(inputs, dict):
        return {name: clean_inputs(text, clean) for name, text in inputs.items()}
    return [clean_inputs(each, clean) for each in inputs] if isinstance(inputs, list) else inputs


def copy_dictionaries(tokenizer: Any, folder: Path) -> None:
    """Copy the users' own dictionaries that lie beside a saved tokenizer into another folder."""
    settings = saved_preparation(tokenizer) or {}
    for each in (settings, *settings.get("tasks", {}).values()):
        if (name := each.get("spelling_dictionary")) is not None:
            with replacing(folder / name) as partial:
                shutil.copyfile(_beside(tokenizer, name), partial)


def saved_dictionary(tokenizer: Any, task: str | None = None) -> str | None:
    """Return the path of the user's own dictionary of spelling that lies beside a prepared tokenizer, None without."""
    name = _settings_of(saved_preparation(tokenizer) or {}, task).get("spelling_dictionary")
    return None if name is None else _beside(tokenizer, name)


def _beside(tokenizer: Any, name: str) -> str:
    from transformers.utils import cached_file

    return str(cached_file(tokenizer.name_or_path, name))
