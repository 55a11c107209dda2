from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    pipeline,
)

from hf_layerfusion import (
    BertForGRUFusionClassification,
    BertWithPoolingModule,
    CerbertusConfig,
    CerbertusForMultitask,
    GRUFusionConfig,
    LayerPoolingConfig,
)
from hf_layerfusion.modeling.configuration_layer_fusion import LayerFusionConfig
from tests.tiny import tiny_config, tiny_tokenizer

# A wrong type is refused by huggingface_hub's own class, which is no ValueError.
REFUSALS = (ValueError, StrictDataclassError)

BAD_FUSION: list[tuple[str, Any]] = [
    *((name, value) for name in ("num_groups", "num_last_layers", "fusion_hidden_size") for value in (0, -1)),
    ("downstream_hidden_size", -1),
    ("dense_size", -1),
    *(("classifier_dropout", value) for value in (-0.1, 1.0, 2, float("nan"), float("inf"), "0.5")),
    *(("num_groups", value) for value in ("2", 2.0, True, None, [2])),
    ("fusion", "attention"),
    ("fusion", 3),
    ("fusion_cell", "rnn"),
    ("downstream_cell", "linear"),
    ("token_reduction", "median"),
    ("mask_padding", "yes"),
    ("freeze_fusion", 1),
    ("encoder_config", "bert-base-uncased"),
    ("encoder_config", {"model_type": "bert", "num_hidden_layers": 0}),
    ("encoder_config", {"model_type": "bert", "num_hidden_layers": -1}),
    ("encoder_config", {"model_type": "bert", "hidden_size": 0}),
    ("encoder_config", {"model_type": "bert", "num_attention_heads": 0}),
    *((name, 10**9) for name in ("fusion_hidden_size", "downstream_hidden_size", "dense_size")),
    ("num_labels", 0),
    ("problem_type", "ranking"),
    ("initializer_range", float("nan")),
]
BAD_POOLING: list[tuple[str, Any]] = [
    ("pooling", "median"),
    ("token_pooling", "first"),
    ("dense_size", -1),
    ("classifier_dropout", float("nan")),
    ("classifier_dropout", 1),
]


@pytest.mark.parametrize(("name", "value"), BAD_FUSION)
def test_bad_fusion_settings(name: str, value: Any) -> None:
    settings = {"encoder_config": tiny_config("bert"), "num_groups": 2, name: value}
    with pytest.raises(REFUSALS, match=name) as error, torch.device("meta"):
        BertForGRUFusionClassification(GRUFusionConfig(**settings))
    assert isinstance(error.value, StrictDataclassError) or "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "value"), BAD_POOLING)
def test_bad_pooling_settings(name: str, value: Any) -> None:
    settings = {"encoder_config": tiny_config("bert"), name: value}
    with pytest.raises(REFUSALS, match=name), torch.device("meta"):
        BertWithPoolingModule(LayerPoolingConfig(**settings))


def test_linear_cells_along_depth() -> None:
    with pytest.raises(ValueError, match=r"`fusion_cell` along depth .* found 'linear'"):
        GRUFusionConfig(fusion="share_depth", fusion_cell="linear")


def test_groups_that_do_not_divide_the_depth_say_both_numbers() -> None:
    config = GRUFusionConfig(encoder_config=tiny_config("bert", 4), num_groups=3)
    with pytest.raises(ValueError, match=r"found 3 groups for 4 layers; choose one of \[1, 2, 4\]"):
        BertForGRUFusionClassification(config)


def test_more_last_layers_than_there_are() -> None:
    config = GRUFusionConfig(encoder_config=tiny_config("bert", 3), fusion="last_mean", num_last_layers=4)
    with pytest.raises(ValueError, match="found 4 for 3 layers"):
        BertForGRUFusionClassification(config)


def test_a_setting_that_does_not_fit_is_refused_before_the_encoder_takes_memory() -> None:
    huge = tiny_config("bert", 4, hidden_size=2**16, intermediate_size=2**18)
    with pytest.raises(ValueError, match="3 groups for 4 layers"):
        BertForGRUFusionClassification(GRUFusionConfig(encoder_config=huge, num_groups=3))


@pytest.mark.parametrize("value", [0, -1, 10**9])
def test_a_broken_rule_is_a_value_error_on_one_line(value: int) -> None:
    with pytest.raises(ValueError, match=f"^`num_groups` must .* found {value}; .*$"):
        GRUFusionConfig(num_groups=value)


def test_hostile_file_is_refused(tmp_path: Path) -> None:
    GRUFusionConfig(encoder_config=tiny_config("bert")).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    for name, value in [("num_groups", -3), ("classifier_dropout", "high"), ("fusion_cell", "evil/kernel")]:
        path.write_text(json.dumps(stored | {name: value}))
        with pytest.raises(REFUSALS, match=name):
            AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "grubert-share-3"),
        ({"fusion": "cat", "num_groups": 6}, "grubert-cat-6"),
        ({"fusion_cell": "linear"}, "grubert-share-3-linear"),
        ({"fusion": "last_concat", "num_last_layers": 1}, "grubert-last-layer"),
        ({"fusion": "last_concat"}, "grubert-last-4"),
        ({"fusion": "last_mean"}, "grubert-last-4-mean"),
        ({"fusion": "scalar_mix"}, "grubert-scalar-mix"),
        ({"fusion": "cat_depth", "fusion_cell": "lstm"}, "grubert-cat-3-depth-lstm"),
        ({"freeze_fusion": True}, "grubert-share-3-frozen"),
        ({"fusion_cell": "mingru"}, "grubert-share-3-mingru"),
        ({"downstream_cell": "minlstm"}, "grubert-share-3-downstream-minlstm"),
    ],
)
def test_names_of_variants(settings: dict[str, Any], name: str) -> None:
    assert GRUFusionConfig(**settings).paper_name == name


def test_names_of_pooled_variants() -> None:
    assert LayerPoolingConfig().paper_name == "bert-lstm"
    assert (
        LayerPoolingConfig(pooling="last", token_pooling="mean", dense_size=9).paper_name
        == "bert-last-tokens-dense-9"
    )


def test_the_encoder_says_depth_width_and_vocabulary(tmp_path: Path) -> None:
    config = GRUFusionConfig(encoder_config=tiny_config("distilbert", 3), num_labels=5)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert (loaded.num_hidden_layers, loaded.hidden_size, loaded.num_labels) == (3, 32, 5)
    assert type(loaded.encoder_config) is type(config.encoder_config)
    assert loaded.get_text_config() is loaded.encoder_config


HUGE = 10**9
HOSTILE: list[tuple[str, Any]] = [
    *(("num_labels", value) for value in (HUGE, -1, 0, 1.5, "2", True, None)),
    ("id2label", ["a", "b"]),
    ("id2label", {"1": "a", "7": "b"}),
    *(
        (f"encoder_config.{name}", HUGE)
        for name in ("num_labels", "num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")
    ),
    *((f"encoder_config.{name}", -1) for name in ("num_labels", "hidden_size", "vocab_size")),
    ("encoder_config.num_hidden_layers", "2"),
    ("encoder_config.max_position_embeddings", HUGE),
    ("encoder_config", {"model_type": "modernbert", "num_hidden_layers": HUGE}),
    ("encoder_config", {"model_type": "distilbert", "n_layers": HUGE}),
    ("encoder_config", {"model_type": "albert", "num_hidden_groups": HUGE}),
    ("encoder_config", {"model_type": "gru_fusion", "encoder_config": {"num_labels": HUGE}}),
    ("encoder_config", {"model_type": "unheard-of"}),
]
HOSTILE_OF_TASKS: list[tuple[str, Any]] = [
    ("tasks", {"a": {"labels": ["x", "y"], "vector_layers": 60_000}}),
    ("tasks", {"a": {"labels": ["x", "y"], "dense_size": HUGE}}),
    ("tasks", {"a": {"labels": ["x", "y"], "fusion": {"fusion": "unheard-of"}}}),
    ("tasks", {"a": {"labels": ["x", "y"], "fusion": {"fusion_hidden_size": HUGE}}}),
    ("encoders", ["own"] * 1000),
    ("num_task_layers", HUGE),
]


NAN, INF = float("nan"), float("inf")
NOT_REAL = [
    *[(name, value) for name in ("layer_norm_eps",) for value in (NAN, INF, -INF, -1e-12, 0.0, 0, -1)],
    *[
        (name, value)
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob")
        for value in (NAN, INF, -0.1, 2)
    ],
    *[("initializer_range", value) for value in (NAN, INF, -0.02)],
    ("rope_parameters", {"rope_theta": NAN}),
    ("something_of_its_own", NAN),
]


@pytest.mark.parametrize("config_class", [GRUFusionConfig, LayerPoolingConfig, CerbertusConfig])
def test_encoders_whose_numbers_are_not_finite_or_negative_are_refused(
    tmp_path: Path, config_class: type[Any]
) -> None:
    """In a file, as an object and as a change of a plain encoder's configuration."""
    stored = config_class(encoder_config=tiny_config("bert")).to_dict()
    for name, value in NOT_REAL:
        content = stored | {"encoder_config": stored["encoder_config"] | {name: value}}
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=rf"^`encoder_config.*{name}.*` must be .*found") as caught:
            AutoConfig.from_pretrained(tmp_path)
        assert "\n" not in str(caught.value)
    encoder = tiny_config("bert")
    encoder.layer_norm_eps = NAN
    with pytest.raises(
        ValueError, match=r"`encoder_config\.layer_norm_eps` must be finite and more than 0, found nan"
    ):
        config_class(encoder_config=encoder)


@pytest.mark.parametrize("value", [NAN, INF, -0.1])
def test_our_own_numbers_must_be_finite(value: float) -> None:
    for config_class in (GRUFusionConfig, LayerPoolingConfig):
        for name in ("classifier_dropout", "initializer_range"):
            with pytest.raises(REFUSALS, match=name):
                config_class(**{name: value})
    for task in (
        {"labels": ["a", "b"], "dropout": value},
        {"value_range": [0, value], "problem_type": "regression"},
    ):
        with pytest.raises(REFUSALS, match=r"dropout|value_range"):
            CerbertusConfig(tasks={"one": task})


def hostile_files(folder: Path) -> list[tuple[Path, str]]:
    """Folders with a `config.json` that must be refused, each with what the message must name."""
    found = []
    for config_class in (GRUFusionConfig, LayerPoolingConfig, CerbertusConfig):
        stored = config_class(encoder_config=tiny_config("bert")).to_dict()
        more = HOSTILE_OF_TASKS if config_class is CerbertusConfig else []
        for number, (name, value) in enumerate([*HOSTILE, *more]):
            outer, _, inner = name.partition(".")
            content = stored | {outer: stored[outer] | {inner: value} if inner else value}
            place = folder / f"{config_class.model_type}-{number}"
            place.mkdir()
            (place / "config.json").write_text(json.dumps(content))
            found.append((place, {"tasks": "task 'a'", "encoder_config": ""}.get(outer, outer) or inner))
    return found


LOAD_WITHIN_LIMITS = """
import json, resource, sys, time
import hf_layerfusion
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForSequenceClassification

lines = open("/proc/self/status").read().splitlines()
used = next(int(line.split()[1]) for line in lines if line.startswith("VmSize")) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
answers = []
for folder in json.loads(sys.argv[1]):
    start = time.process_time()
    try:
        AutoConfig.from_pretrained(folder)
        answers.append("accepted")
    except (ValueError, StrictDataclassError) as error:
        answers.append(str(error))
    except BaseException as error:
        answers.append(f"{type(error).__name__} in place of ValueError: {error}")
    if time.process_time() - start > 2:
        answers[-1] = "too slow"
print(json.dumps(answers))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads its own size from /proc")
def test_hostile_files_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    """In a process that may take 256 MiB more than it has after importing."""
    files = hostile_files(tmp_path)
    given = json.dumps([str(folder) for folder, _ in files])
    process = subprocess.run(
        [sys.executable, "-c", LOAD_WITHIN_LIMITS, given],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )
    assert process.returncode == 0, process.stderr
    answers = json.loads(process.stdout.splitlines()[-1])
    wrong = [
        (folder.name, json.loads((folder / "config.json").read_text()), answer)
        for (folder, name), answer in zip(files, answers, strict=True)
        if name not in answer or answer == "accepted" or "in place of" in answer
    ]
    assert not wrong


@pytest.mark.parametrize("value", [HUGE, -1, 1.5])
def test_numbers_of_labels_as_keyword(tmp_path: Path, value: Any) -> None:
    GRUFusionConfig(encoder_config=tiny_config("bert")).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"`num_labels` must be a whole number .* found {value}"):
        AutoConfig.from_pretrained(tmp_path, num_labels=value)


# --- names that transformers uses itself -----------------------------------------------------------------------------


def reserved_names() -> set[str]:
    """Names that `from_pretrained`, `pipeline` and every configuration of transformers already use."""
    functions = (
        AutoConfig.from_pretrained,
        AutoModel.from_pretrained,
        PreTrainedConfig.from_pretrained,
        PreTrainedModel.from_pretrained,
        PreTrainedModel.save_pretrained,
        PreTrainedModel.push_to_hub,
        pipeline,
    )
    names = {field.name for field in dataclasses.fields(PreTrainedConfig)} | set(vars(PreTrainedConfig()))
    for function in functions:
        names |= set(inspect.signature(function).parameters)
        names |= set(re.findall(r'kwargs\.(?:pop|get)\(\s*"(\w+)"', inspect.getsource(function)))
    assert {"variant", "revision", "subfolder", "dtype", "attn_implementation", "device_map"} <= names
    return names


@pytest.mark.parametrize("config_class", [GRUFusionConfig, LayerPoolingConfig, CerbertusConfig])
def test_no_name_of_ours_is_one_of_transformers(config_class: type[LayerFusionConfig]) -> None:
    own = {
        name
        for parent in config_class.__mro__
        if issubclass(parent, LayerFusionConfig)
        for name in (*vars(parent), *vars(parent).get("__annotations__", {}))
        if not name.startswith("__")
    }
    meant = {"model_type", "sub_configs_defaults"}  # set for transformers to read
    assert not own & reserved_names() - meant


def test_weights_saved_as_a_variant_are_loaded(tmp_path: Path) -> None:
    config = GRUFusionConfig(encoder_config=tiny_config("bert", 3))
    BertForGRUFusionClassification(config).half().save_pretrained(tmp_path, variant="fp16")
    tiny_tokenizer().save_pretrained(tmp_path)
    for auto_class in (AutoModel, AutoModelForSequenceClassification):
        assert auto_class.from_pretrained(tmp_path, variant="fp16").dtype == torch.float16
    classify = pipeline("text-classification", str(tmp_path), model_kwargs={"variant": "fp16"}, device="cpu")
    assert classify.model.dtype == torch.float16


def test_an_encoder_saved_as_a_variant_is_loaded(tmp_path: Path) -> None:
    AutoModel.from_config(tiny_config("bert", 3)).save_pretrained(tmp_path, variant="fp16")
    for model_class in (BertForGRUFusionClassification, CerbertusForMultitask):
        model_class.from_pretrained(tmp_path, variant="fp16")
