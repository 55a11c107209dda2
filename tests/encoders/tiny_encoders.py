"""Every architecture that reads texts of those that `AutoModel` knows, with random weights, small enough for a test."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING, MODEL_MAPPING_NAMES

LARGEST = 5_000_000
DEPTH, WIDTH, HEADS, VOCABULARY = 4, 32, 4, 100

OTHER_INPUTS = {"pixel_values", "pixel_values_videos", "input_features", "input_values"}

# Fields of many configurations, by the names that they go by there.
SMALL: dict[str, Any] = {
    name: value
    for value, names in (
        (DEPTH, "num_hidden_layers n_layers n_layer num_layers encoder_layers depth"),
        (2, "decoder_layers"),
        (HEADS, "num_attention_heads n_heads n_head encoder_attention_heads"),
        (HEADS, "decoder_attention_heads"),
        (WIDTH, "hidden_size d_model n_embd dim emb_dim embedding_size"),
        (64, "intermediate_size hidden_dim d_ff ffn_dim d_inner n_inner ffn_hidden_size encoder_ffn_dim"),
        (64, "decoder_ffn_dim"),
        (128, "max_position_embeddings n_positions n_ctx max_seq_len max_sequence_length"),
        (2, "num_key_value_heads num_local_experts num_experts n_routed_experts moe_num_experts"),
        (1, "num_experts_per_tok moe_top_k moe_k num_shared_experts n_shared_experts n_group topk_group"),
        (16, "moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size sliding_window"),
        (16, "q_lora_rank kv_lora_rank index_head_dim index_topk qk_nope_head_dim v_head_dim"),
        (8, "mamba_chunk_size chunk_size mamba_d_state state_size ssm_state_size"),
        (8, "head_dim kv_channels attention_head_dim d_kv qk_rope_head_dim rotary_dim"),
        (0.0, "hidden_dropout_prob attention_probs_dropout_prob hidden_dropout attention_dropout dropout"),
        (0.0, "activation_dropout resid_pdrop embd_pdrop attn_pdrop embedding_dropout mlp_dropout"),
        (0.0, "dropout_rate layerdrop emb_pdrop encoder_layerdrop classifier_dropout residual_dropout"),
        (VOCABULARY, "vocab_size entity_vocab_size vocab_size_per_layer_input"),
        (1, "pad_token_id"),
        (2, "bos_token_id"),
        (3, "eos_token_id"),
    )
    for name in names.split()
}

# What the fields above do not make small or sound.
OWN: dict[str, dict[str, Any]] = {
    "xmod": {"default_language": "en_XX"},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 16},
    "funnel": {"block_sizes": [2, 2], "num_decoder_layers": 2, "d_head": 8},
    "lilt": {"channel_shrink_ratio": 2, "hidden_size": 48},
    "longformer": {"attention_window": 8},
    "luke": {"entity_emb_size": 16},
    "bamba": {
        "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8,
        "attn_layer_indices": [1, 3],
    },
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1, "state_size": 8},
    "esmc": {"num_key_value_heads": 4},
    "dots3_note_text": {"num_key_value_heads": 4},
    "glm5_next_text": {"num_key_value_heads": 4},
    "minicpm3": {"num_key_value_heads": 4},
    "mistral_large4_text": {"num_key_value_heads": 4},
    "dpr": {"projection_dim": 0},
    "canine": {"max_position_embeddings": 256, "num_hash_functions": 4, "num_hash_buckets": 64},
    "xlm": {"max_position_embeddings": 128},
    "reformer": {
        "attn_layers": ["local", "lsh", "local", "lsh"], "axial_pos_shape": [8, 16], "axial_pos_embds_dim": [16, 16],
        "num_buckets": 2, "attention_head_size": 8, "feed_forward_size": 64, "is_decoder": False,
    },
    "embedding_gemma2_text": {"embedding_dim": 32},
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 16},
    "big_bird": {"block_size": 4, "num_random_blocks": 1},
    "hrm_text": {},
    "glm4v_moe_text": {
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "mrope_section": [0, 1, 1],
        },
    },
}  # fmt: skip


def text_types() -> Iterator[str]:
    """The architectures whose model takes `input_ids` and neither images nor sound."""
    for name in sorted(MODEL_MAPPING_NAMES):
        if (taken := inputs_of(name)) and "input_ids" in taken and not OTHER_INPUTS & taken:
            yield name


def skipped_types() -> dict[str, str]:
    """The architectures that take `input_ids` and are not among `text_types`, with the reason."""
    return {
        name: "Takes images or sound beside texts"
        for name in sorted(MODEL_MAPPING_NAMES)
        if (taken := inputs_of(name)) and "input_ids" in taken and OTHER_INPUTS & taken
    }


def why_not_built(name: str) -> str | None:
    """Why there is no small encoder of an architecture, or `None` where there is one."""
    try:
        with torch.device("meta"):
            encoder = AutoModel.from_config(tiny_encoder_config(name))
    except Exception:
        return "No small configuration is known to the tests"
    size = sum(parameter.numel() for parameter in encoder.parameters())
    return "Its smallest known configuration is too large for the tests" if size > LARGEST else None


def inputs_of(name: str) -> set[str] | None:
    """What the model of an architecture is given, or `None` where the class is not to be had."""
    try:
        return set(inspect.signature(model_class(name).forward).parameters)
    except (ImportError, KeyError, ValueError):
        return None


def model_class(name: str) -> Any:
    """The class that `AutoModel` takes for an architecture."""
    found = MODEL_MAPPING[CONFIG_MAPPING[name]]
    return found[0] if isinstance(found, tuple) else found


def tiny_encoder_config(name: str, **changes: Any) -> PreTrainedConfig:
    """The configuration of a small encoder."""
    config_class = CONFIG_MAPPING[name]
    known = {field.name for field in dataclasses.fields(config_class)}
    settings = {key: value for key, value in SMALL.items() if key in known}
    if "kv_lora_rank" in known:
        settings["num_key_value_heads"] = HEADS
    return config_class(**(settings | OWN.get(name, {}) | changes))


def tiny_encoder(name: str, **changes: Any) -> nn.Module:
    """A small encoder with random weights."""
    torch.manual_seed(0)
    return AutoModel.from_config(tiny_encoder_config(name, **changes)).eval()
