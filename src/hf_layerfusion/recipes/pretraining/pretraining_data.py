"""Text streams for further pretraining, from the files that the user names."""

import logging
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from hf_layerfusion.data.fingerprints import Fingerprint, RowHash
from hf_layerfusion.data.streaming import is_held_out, stream_texts
from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.pretraining.pretraining_arguments import PretrainingDataArguments
from hf_layerfusion.training.objectives import Objective
from hf_layerfusion.training.text_stream import TextStream

logger = logging.getLogger(__name__)

TRAIN, VALIDATION = "train", "validation"


def corpus_rows(
    paths: list[str],
    text_columns: tuple[str, ...],
    skip_incomplete: bool,
    share: float,
    seed: int,
    part: str,
    objective: Objective,
) -> Iterator[dict[str, str]]:
    """Yield the objective's examples of the texts of several files, either of the held-out share of the texts or of the
    rest (`data.streaming.is_held_out`)."""
    texts = (
        text
        for path in paths
        for text in stream_texts(path, text_columns=text_columns, skip_incomplete=skip_incomplete)
        if is_held_out(text, share, seed) == (part == VALIDATION)
    )
    for example in objective.examples(texts):
        yield dict(zip(objective.columns, example, strict=True))


def open_streams(
    arguments: PretrainingDataArguments, tokenizer: PreTrainedTokenizerBase, seed: int, objective: Objective
) -> tuple[dict[str, TextStream], dict[str, Fingerprint]]:
    """Open the streams `train` and, if texts are held out, `validation`, and return them with their fingerprints.

    Each file is read once for the fingerprint, so errors in a file are found before training.

    Raises:
        UserError: No file is named, a setting is out of range, or a part has no texts; or as `stream_texts`.
    """
    _check_data(arguments, tokenizer)
    fraction = arguments.validation_fraction
    streams, record = {}, {}
    for part, files, share, limit in (
        (TRAIN, arguments.train_file, fraction, arguments.max_train_samples),
        # Without a fraction, all texts of the validation files.
        (VALIDATION, arguments.validation_file, 1.0, arguments.max_eval_samples),
        (VALIDATION, arguments.train_file if fraction else None, fraction, arguments.max_eval_samples),
    ):
        if not files:
            continue
        options: dict[str, Any] = {
            "paths": files,
            "text_columns": tuple(arguments.text_columns),
            "skip_incomplete": arguments.skip_incomplete,
            "share": share,
            "seed": arguments.split_seed,
            "part": part,
            "objective": objective,
        }
        texts = RowHash()
        for row in islice(corpus_rows(**options), limit):
            texts.add(row.values())
        record[part] = texts.fingerprint()
        length = record[part]["rows"]
        if not length:
            raise UserError(
                f"{part}: has no {objective.unit} with --validation_fraction {fraction}; choose another fraction or "
                "other files."
            )
        rows = datasets.IterableDataset.from_generator(corpus_rows, gen_kwargs=options)
        streams[part] = TextStream(
            rows if limit is None else rows.take(limit),
            length,
            partial(objective.encode, tokenizer, arguments.max_seq_length),
            seed,
            arguments.shuffle_buffer_size if part == TRAIN else 0,
            objective.columns,
        )
        logger.info("%s: %s %s", part, f"{length:,}", objective.unit)
    return streams, record


def _check_data(arguments: PretrainingDataArguments, tokenizer: PreTrainedTokenizerBase) -> None:
    if not arguments.train_file:
        raise UserError("--train_file must name at least one file of texts, found none; name one.")
    if arguments.validation_file and arguments.validation_fraction:
        raise UserError("--validation_file and --validation_fraction exclude each other; leave one out.")
    if not 0 <= arguments.validation_fraction < 1:
        raise UserError(
            f"--validation_fraction must be 0 or more and below 1, found {arguments.validation_fraction}."
        )
    if arguments.shuffle_buffer_size < 0:
        raise UserError(f"--shuffle_buffer_size must be 0 or more, found {arguments.shuffle_buffer_size}.")
    for name in ("max_train_samples", "max_eval_samples"):
        if (limit := getattr(arguments, name)) is not None and limit < 1:
            raise UserError(f"--{name} must be 1 or more, found {limit}; leave it out for all texts.")
    special, most = tokenizer.num_special_tokens_to_add(), tokenizer.model_max_length
    if not special < arguments.max_seq_length <= most:
        raise UserError(
            f"--max_seq_length must be above {special} and at most {most} for this tokenizer, found "
            f"{arguments.max_seq_length}."
        )
