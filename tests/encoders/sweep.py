"""What holds for a model of the package on an encoder of any architecture, checked on small ones.

A row is an architecture, a column a model around it: GRUBERT, the pooling over layers, CerBERTus with k = 0 and k = 2
layers of each task's own. `check` says of one cell whether it passes, is refused in one line, or fails.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForSequenceClassification, BertTokenizer
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from hf_layerfusion import (
    BertForGRUFusionClassification,
    BertWithPoolingModule,
    CerbertusConfig,
    CerbertusForMultitask,
    GRUFusionConfig,
    LayerPoolingConfig,
)
from hf_layerfusion.export import export_onnx
from hf_layerfusion.modeling.encoders import complete_inputs, encoder_of, sees_padding
from tests.encoders.tiny_encoders import VOCABULARY, tiny_encoder_config
from tests.tiny import VOCABULARY as WORDS

SHORT, LONG, BLOCKS = 7, 12, 45  # the last one spans several windows and blocks of sparse attention
PAD = 1
TASKS = {
    "a": {"labels": ["x", "y"], "dropout": 0.0},
    "b": {"labels": ["x", "y", "z"], "dropout": 0.0, "fusion": {"pooling": "mean"}},
}
# Architectures that read in blocks round off as they pad.
TOLERANCE = 1e-4


@dataclasses.dataclass
class Result:
    """What became of one cell.

    Attributes:
        kind: `"passes"`, `"refused"`, `"limited"` or `"fails"`.
        line: the refusal, the limits or the failure; empty for what passes.
    """

    kind: str
    line: str = ""


def gru_fusion(encoder: Any) -> Any:
    config = GRUFusionConfig(
        encoder_config=encoder, num_groups=2, fusion_hidden_size=6, downstream_hidden_size=6, dense_size=6
    )
    return BertForGRUFusionClassification(config)


def layer_pooling(encoder: Any, token_pooling: Any = None) -> Any:
    return BertWithPoolingModule(
        LayerPoolingConfig(encoder_config=encoder, pooling="attention", token_pooling=token_pooling)
    )


def cerbertus(encoder: Any, num_task_layers: int) -> Any:
    return CerbertusForMultitask(
        CerbertusConfig(encoder_config=encoder, tasks=TASKS, num_task_layers=num_task_layers)
    )


MODELS: dict[str, Callable[[Any], Any]] = {
    "GRUBERT": gru_fusion,
    "pooling": layer_pooling,
    "mean": lambda encoder: layer_pooling(encoder, "mean"),
    "last": lambda encoder: layer_pooling(encoder, "last"),
    "CerBERTus k = 0": lambda encoder: cerbertus(encoder, 0),
    "CerBERTus k = 2": lambda encoder: cerbertus(encoder, 2),
}


def check(name: str, column: str) -> Result:
    """Builds the model and applies every check to it."""
    torch.manual_seed(0)
    encoder = tiny_encoder_config(name)
    try:
        model = MODELS[column](encoder).eval()
    except ValueError as error:
        line = str(error)
        return Result("refused" if "\n" not in line and "; " in line else "fails", line)
    except Exception as error:
        return Result("fails", f"cannot be built: {one_line(error)}")
    strengthen(model)
    failures, limits = [], []
    for title, each in CHECKS.items():
        if column in ("mean", "last") and title not in OF_VECTORS:
            continue
        try:
            with torch.no_grad():
                problem = each(model)
        except Exception as error:
            problem = f"raises {one_line(error)}"
        if problem:
            is_limit = title in LIMITS or (title in OF_PADDING and sees_padding(encoder))
            (limits if is_limit and "raises" not in problem else failures).append(f"{title}: {problem}")
    if failures:
        return Result("fails", "; ".join(failures))
    return Result("limited", "; ".join(limits)) if limits else Result("passes")


def check_export(name: str) -> Result:
    """Export the pooling as an ONNX graph, which is compared with the model on batches of several sizes and lengths.

    It takes about as long as all other cells of a row.
    """
    torch.manual_seed(0)
    try:
        model = layer_pooling(tiny_encoder_config(name)).eval()
        strengthen(model)
        tokenizer = BertTokenizer(vocab=dict(list(WORDS.items())[:VOCABULARY]))
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
        with tempfile.TemporaryDirectory() as folder:
            export_onnx(model, tokenizer, Path(folder) / "onnx")
    except ValueError as error:
        return Result("refused" if "\n" not in str(error) else "fails", str(error))
    except Exception as error:
        return Result("fails", f"cannot be exported: {one_line(error)}")
    return Result("passes")


def one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def strengthen(model: Any) -> None:
    """Makes random weights that are zero or tiny large enough for what they do to be seen."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "encoder" in name and parameter.is_floating_point():
            with torch.no_grad():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def text(length: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, VOCABULARY, (1, length), generator=generator)


def pad(ids: torch.Tensor, length: int, side: str) -> dict[str, torch.Tensor]:
    missing = length - ids.shape[1]
    parts = [ids, torch.full((1, missing), PAD)]
    mask = [torch.ones_like(ids), torch.zeros(1, missing, dtype=torch.long)]
    if side == "left":
        parts, mask = parts[::-1], mask[::-1]
    return {"input_ids": torch.cat(parts, 1), "attention_mask": torch.cat(mask, 1)}


def all_logits(model: Any, **batch: torch.Tensor) -> torch.Tensor:
    """The logits of every task, `[B, C]`."""
    if model.config.model_type == CerbertusConfig.model_type:
        return torch.cat([model(task=task, **batch).logits for task in TASKS], dim=-1)
    return model(**batch).logits


def differ(found: torch.Tensor, expected: torch.Tensor) -> str:
    if not torch.isfinite(found).all():
        return "not finite"
    difference = float((found - expected).abs().max())
    scale = max(1.0, float(expected.abs().max()))
    return "" if difference <= TOLERANCE * scale else f"differs by {difference:.1g}"


def padded_right(model: Any) -> str:
    return padded(model, "right")


def padded_left(model: Any) -> str:
    return padded(model, "left")


def padded(model: Any, side: str) -> str:
    """A text alone, and in a batch with a longer one."""
    short, long = text(SHORT, 0), text(LONG, 1)
    rows = [pad(short, LONG, side), pad(long, LONG, side)]
    batch = {key: torch.cat([row[key] for row in rows]) for key in rows[0]}
    alone = torch.cat([all_logits(model, **pad(each, each.shape[1], side)) for each in (short, long)])
    return differ(all_logits(model, **batch), alone)


def every_token(model: Any) -> str:
    """Each token changes the logits."""
    ids = text(SHORT, 0)
    expected = all_logits(model, **pad(ids, SHORT, "right"))
    blind = []
    for place in range(SHORT):
        changed = ids.clone()
        changed[0, place] = (ids[0, place] - 5 + 17) % (VOCABULARY - 5) + 5
        moved = (all_logits(model, **pad(changed, SHORT, "right")) - expected).abs().max()
        if moved < 1e-7:
            blind.append(place)
    return f"tokens {blind} of {SHORT} change nothing" if blind else ""


def long_texts(model: Any) -> str:
    """A text of several blocks, alone and beside a longer one."""
    short, long = text(BLOCKS, 2), text(BLOCKS + 6, 3)
    rows = [pad(short, BLOCKS + 6, "right"), pad(long, BLOCKS + 6, "right")]
    batch = {key: torch.cat([row[key] for row in rows]) for key in rows[0]}
    alone = torch.cat([all_logits(model, **pad(each, each.shape[1], "right")) for each in (short, long)])
    return differ(all_logits(model, **batch), alone)


def keep(output: Any, seen: list[torch.Tensor]) -> None:
    """Keeps what a layer returned, where that is a state."""
    state = output[0] if isinstance(output, tuple | list) else output
    if isinstance(state, torch.Tensor):
        seen.append(state)


def states_that_are_fused(model: Any) -> str:
    """The fuser gets the states of all layers, normalized as the last one is where the encoder normalizes it alone."""
    base = model.base_model
    if not hasattr(base, "fuser"):
        return ""
    seen: list[Any] = []
    hook = base.fuser.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        output = base(**pad(text(SHORT, 0), SHORT, "right"), output_hidden_states=True)
    finally:
        hook.remove()
    raw = output.hidden_states[1:]
    norm = dict(base.encoder.named_modules()).get(str(base.config.final_norm), torch.nn.Identity())
    last = base.encoder(
        **complete_inputs(base.encoder, pad(text(SHORT, 0), SHORT, "right")), return_dict=True
    ).last_hidden_state
    expected = [norm(state) for state in raw[:-1]] + [last if base.config.normalize_layers else raw[-1]]
    for index in base.fuser.layers:
        if problem := differ(seen[0][index], expected[index]):
            return f"layer {index + 1} {problem}"
    return ""


def states_of_layers(model: Any) -> str:
    """The states that the model reads are what the encoder's layers return."""
    from hf_layerfusion.modeling.layer_routing import RoutedLayer, find_layers

    base = model.base_model
    encoder = getattr(base, "encoder", None) or base.encoders["shared"]
    batch = pad(text(SHORT, 0), SHORT, "right")
    depth = base.config.num_hidden_layers
    states = base(**batch, output_hidden_states=True).hidden_states
    if len(states) != depth + 1:
        return f"{len(states)} states of {depth} layers"
    try:
        layers = find_layers(encoder)
    except ValueError:
        return ""  # the layers are one, or stand in several lists
    seen: list[torch.Tensor] = []
    hooks = []
    for layer in layers:
        watched = next(iter(layer.copies.values())) if isinstance(layer, RoutedLayer) else layer
        hooks.append(
            watched.register_forward_hook(
                lambda _, __, out: seen.append(out[0] if isinstance(out, tuple | list) else out)
            )
        )
    try:
        base(**batch)
    finally:
        for hook in hooks:
            hook.remove()
    if len(seen) != depth:
        return ""  # its layers return something else, or several run at once
    for index, (state, expected) in enumerate(zip(states[1:-1], seen[:-1], strict=True), 1):
        if expected.shape == state.transpose(0, 1).shape and expected.shape != state.shape:
            expected = expected.transpose(0, 1)
        if differ(state, expected[:, : state.shape[1]]):
            return f"state {index} is not the output of layer {index}"
    return ""


def reloaded(model: Any) -> str:
    """Saved and opened by the Auto class, and by the code in its folder, it answers alike."""
    batch = pad(text(SHORT, 0), LONG, "right")
    expected = all_logits(model, **batch)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = AutoModelForSequenceClassification.from_pretrained(folder)
        if problem := differ(all_logits(loaded, **batch), expected):
            return problem
        reference = model.config.auto_map["AutoModelForSequenceClassification"]
        loaded = get_class_from_dynamic_module(reference, folder).from_pretrained(folder)
        problem = differ(all_logits(loaded.eval(), **batch), expected)
        return f"by the code in its folder {problem}" if problem else ""


def around_a_checkpoint(model: Any) -> str:
    """A model that is made around the encoder's own checkpoint reads the encoder's states."""
    whole = AutoModel.from_config(model.config.get_text_config()).eval()
    encoder = encoder_of(whole)
    batch = pad(text(SHORT, 0), SHORT, "right")
    with tempfile.TemporaryDirectory() as folder:
        whole.save_pretrained(folder)
        settings = {
            name: getattr(model.config, name)
            for name in ("num_groups", "num_task_layers", "tasks", "pooling")
            if hasattr(model.config, name)
        }
        loaded = type(model).from_pretrained(folder, **settings)
        all_logits(loaded, **batch)
        found = loaded(**batch, output_hidden_states=True).hidden_states
        given = complete_inputs(encoder, batch)
        expected = encoder(**given, output_hidden_states=True).hidden_states
        return next((line for pair in zip(found, expected, strict=True) if (line := differ(*pair))), "")


def joined(model: Any) -> str:
    """All tasks in one pass answer as each by itself."""
    if not isinstance(model, CerbertusForMultitask):
        return ""
    batches = {"a": pad(text(SHORT, 0), LONG, "right"), "b": pad(text(LONG, 1), LONG, "right")}
    both = model(tasks=batches).logits
    lines = [differ(both[task], model(task=task, **batch).logits) for task, batch in batches.items()]
    return next((line for line in lines if line), "")


def gradients(model: Any) -> str:
    """Every weight that is trained gets a gradient from some task."""
    with torch.enable_grad():
        model.zero_grad()
        all_logits(model, **pad(text(LONG, 1), LONG, "right")).square().sum().backward()
    trained = dict(model.named_parameters())
    missing = [name for name, weight in trained.items() if weight.requires_grad and weight.grad is None]
    model.zero_grad()
    if not missing:
        return ""
    return (
        f"{len(missing)} of {len(trained)} weights are not used ({missing[0].rpartition('encoder.')[2]}, …)"
    )


CHECKS: dict[str, Callable[[Any], str]] = {
    "padding on the right": padded_right,
    "padding on the left": padded_left,
    "every token counts": every_token,
    "long texts": long_texts,
    "states": states_of_layers,
    "fused states": states_that_are_fused,
    "reloading": reloaded,
    "around a checkpoint": around_a_checkpoint,
    "all tasks at once": joined,
    "gradients": gradients,
}

# What does not make a row fail: most encoders count their positions from the left end of the batch, and some have
# weights for other purposes.
LIMITS = ("padding on the left", "gradients")
# Nor where the model says that padding changes its answers.
OF_PADDING = ("padding on the right", "long texts", "all tasks at once")
# The poolings by mean and by last token differ from the first one in nothing else.
OF_VECTORS = ("padding on the right", "every token counts", "long texts")
