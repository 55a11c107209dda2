"""Encoders of subwords: those of transformers, and model2vec's static ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from hf_layerfusion.embeddings.word_vectors import ReadOptions
from hf_layerfusion.errors import LOADING_ERRORS, UserError, one_line, shortened
from hf_layerfusion.hub.encoder import is_hub_id
from hf_layerfusion.modeling.configuration_word_pooled import WordPooledConfig
from hf_layerfusion.modeling.encoders import max_tokens, without_pooler
from hf_layerfusion.modeling.modeling_word_pooled import WordPooledModel

WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
_DOWNLOAD = "download it again"
PADDING = ("[PAD]", "<pad>")
UNKNOWN = ("[UNK]", "<unk>")


class PieceVectors(NamedTuple):
    """Vectors of subwords.

    Attributes:
        vectors: `[V, H]`, zeros at padding and unknown subwords.
        tokenizer: what makes subwords of texts, without special tokens around these.
        padding: the padding token.
        unknown: the token of unknown subwords, if there is one.
    """

    vectors: np.ndarray[Any, Any]
    tokenizer: Tokenizer
    padding: str
    unknown: str | None

    @property
    def padding_id(self) -> int:
        """Row of the padding token."""
        return cast(int, self.tokenizer.token_to_id(self.padding))

    def fast_tokenizer(self) -> PreTrainedTokenizerFast:
        """Return the tokenizer as one of transformers."""
        return PreTrainedTokenizerFast(
            tokenizer_object=self.tokenizer,
            pad_token=self.padding,
            unk_token=self.unknown,
            model_input_names=["input_ids", "attention_mask"],
        )


def read_model2vec(folder: Path, options: ReadOptions) -> PieceVectors:
    """Read a static model of model2vec: `model.safetensors` and `tokenizer.json`.

    A weight of each subword, where the model has them, is multiplied into its vector, and a table that several subwords
    share rows of is written out. The mean of a text's vectors is then that of model2vec before it is normalized, unless
    the text has unknown subwords: model2vec leaves these out of the mean, and here they are vectors of zeros.

    Raises:
        UserError: a folder without these files, or files that do not fit one another.
    """
    for name in (WEIGHTS, TOKENIZER):
        if not (folder / name).is_file():
            raise UserError(
                f"--model2vec {folder}: must be a folder with {WEIGHTS} and {TOKENIZER}, found no {name}; name one."
            )
    try:
        found = load_file(folder / WEIGHTS)
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        SafetensorError,
    ) as error:  # two of them for unknown types
        raise UserError(
            f"--model2vec {folder / WEIGHTS}: cannot be read ({one_line(error)}); {_DOWNLOAD}."
        ) from error
    try:
        tokenizer = Tokenizer.from_str((folder / TOKENIZER).read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises nothing more special
        raise UserError(
            f"--model2vec {folder / TOKENIZER}: cannot be read ({one_line(error)}); {_DOWNLOAD}."
        ) from error
    table = found.get("embeddings", found.get("embedding.weight"))
    if table is None or table.ndim != 2:
        raise UserError(
            f"--model2vec {folder / WEIGHTS}: must hold `embeddings`, a row a subword, found {', '.join(found)}; name "
            "a model of model2vec."
        )
    table = table.astype(np.float32)
    if (rows := found.get("mapping")) is not None:
        if rows.ndim != 1 or rows.dtype.kind not in "iu" or not ((rows >= 0) & (rows < len(table))).all():
            raise UserError(
                f"--model2vec {folder / WEIGHTS}: `mapping` must hold numbers of the {len(table):,} rows of "
                f"`embeddings`, found others; {_DOWNLOAD}."
            )
        table = table[rows]
    if (weights := found.get("weights")) is not None:
        if weights.shape != table.shape[:1]:
            raise UserError(
                f"--model2vec {folder / WEIGHTS}: `weights` must be {[len(table)]}, a weight a subword, found "
                f"{list(weights.shape)}; {_DOWNLOAD}."
            )
        table = table * weights.astype(np.float32)[:, None]
    size = 1 + max(tokenizer.get_vocab().values(), default=-1)
    if len(table) < size or not table.size or not np.isfinite(table).all():
        raise UserError(
            f"--model2vec {folder}: must hold a finite vector for each of {size:,} subwords, found "
            f"{list(table.shape)}; {_DOWNLOAD}."
        )
    unknown = next((name for name in UNKNOWN if tokenizer.token_to_id(name) is not None), None)
    padding = next((name for name in PADDING if tokenizer.token_to_id(name) is not None), None)
    if padding is None:
        padding = PADDING[0]
        tokenizer.add_special_tokens([padding])
        table = np.concatenate([table[:size], np.zeros_like(table[:1])])
    for name in filter(None, (padding, unknown)):
        table[tokenizer.token_to_id(name)] = 0
    settings = json.loads(tokenizer.to_str())
    settings |= {"post_processor": None, "truncation": None, "padding": None}
    return PieceVectors(table, Tokenizer.from_str(json.dumps(settings)), padding, unknown)


def read_encoder(name: Path, options: ReadOptions) -> WordPooledModel:
    """Load an encoder of transformers, a folder or a name on the Hub, as one of words.

    Args:
        name: the folder or the name.
        options: not used, as there is no vocabulary of words.

    Raises:
        UserError: a model that cannot be loaded, has no fast tokenizer, or is no encoder of subwords.
    """
    if not os.path.isdir(name) and not is_hub_id(str(name)):
        raise UserError(
            f"--encoder {shortened(name)}: must be a folder or a name on the Hub, found no such folder; check the name."
        )
    try:
        config = AutoConfig.from_pretrained(str(name))
    except LOADING_ERRORS as error:
        raise UserError(f"--encoder {name}: {one_line(error)}") from error
    if getattr(config, "word_level", False) or getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"--encoder {name}: must be an encoder of subwords, found '{config.model_type}'; name another."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(name))
    except Exception as error:  # tokenizers raises nothing more special
        raise UserError(
            f"--encoder {name}: its tokenizer cannot be loaded ({one_line(error)}); save it there."
        ) from error
    try:
        encoder = AutoModel.from_pretrained(str(name), use_safetensors=True, **without_pooler(config))
    except LOADING_ERRORS as error:
        raise UserError(f"--encoder {name}: {one_line(error)}") from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"--encoder {name}: must have a fast tokenizer ({TOKENIZER}), found {type(tokenizer).__name__}; name "
            "another."
        )
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    if not any(map(str.isalnum, "".join(backend.get_vocab().keys() - added))):
        raise UserError(
            f"--encoder {name}: must have a tokenizer with subwords, found special tokens alone, which is what "
            "transformers makes of a folder without the tokenizer's files; save the tokenizer there."
        )
    limits = [tokenizer.model_max_length, max_tokens(encoder.config)]
    most = min((limit for limit in limits if limit is not None), default=None)
    return pooled(encoder, backend.to_str(), None if most is None or most > 10**6 else int(most))


def pooled(
    encoder: Any, tokenizer: str, max_pieces: int | None, add_special_tokens: bool = True
) -> WordPooledModel:
    """Return an encoder of subwords as one of words."""
    left_out = ("auto_map", "architectures", "transformers_version", "_name_or_path")
    settings = {name: value for name, value in encoder.config.to_dict().items() if name not in left_out}
    config = WordPooledConfig(
        encoder_config=settings,
        max_pieces=max_pieces,
        add_special_tokens=add_special_tokens,
        dtype="float32",
    )
    return WordPooledModel(config, encoder.float(), tokenizer)
