"""The common tests that may be skipped, and why. Any other skip fails `make test-common`."""

_ACCELERATOR = "needs an accelerator; runs where there is one"
_FLASH = "needs Flash Attention kernels, which no requirement of ours brings"
_DEEPSPEED = "needs deepspeed, which the project does not use"
_CONVERSION = "only for models with a conversion of old weight names; ours save what they load"
_ROPE = "only for models with rotary embeddings of their own; here they belong to the encoder"
_GENERATION = "only for models that generate text"
_FP32 = "only for models with modules that must stay in fp32; ours have none"
_TENSOR_PARALLEL = "only for models with a plan for tensor parallelism"
_EXPERTS = "only for mixtures of experts"

SKIPS: dict[str, str] = {
    "test_can_capture_specific_layers_hidden_states": (
        "only before transformers 5.23, where a list of layers left the embeddings out; ours goes by the new rule"
    ),
    "test_can_load_from_already_mapped_keys": _CONVERSION,
    "test_can_load_ignoring_mismatched_shapes": (
        "only where the labels' layer stands right below the model; CerbertusForMultitask has one for each task, and "
        "tests/modeling/test_modeling_cerbertus.py checks what this would"
    ),
    "test_can_load_with_device_context_manager": _ACCELERATOR,
    "test_can_load_with_global_device_set": _ACCELERATOR,
    "test_causal_lm_loss_honors_shift_labels": _GENERATION,
    "test_cpu_offload": _ACCELERATOR,
    "test_disk_offload_bin": _ACCELERATOR,
    "test_disk_offload_safetensors": _ACCELERATOR,
    "test_eager_matches_batched_and_grouped_inference": _EXPERTS,
    "test_encoder_decoder_loss_no_double_shift": _GENERATION,
    "test_flash_attn_2_can_compile_with_attention_mask_None_without_graph_break": _FLASH,
    "test_flash_attn_2_can_dispatch_composite_models": _FLASH,
    "test_flash_attn_2_fp32_ln": _FLASH,
    "test_flash_attn_2_from_config": _FLASH,
    "test_flash_attn_2_inference_equivalence": _FLASH,
    "test_flash_attn_2_inference_equivalence_right_padding": _FLASH,
    "test_flash_attn_3_can_dispatch_composite_models": _FLASH,
    "test_flash_attn_3_from_config": _FLASH,
    "test_flash_attn_3_inference_equivalence": _FLASH,
    "test_flash_attn_3_inference_equivalence_right_padding": _FLASH,
    "test_flash_attn_4_can_dispatch_composite_models": _FLASH,
    "test_flash_attn_4_from_config": _FLASH,
    "test_flash_attn_4_inference_equivalence": _FLASH,
    "test_flash_attn_4_inference_equivalence_right_padding": _FLASH,
    "test_flash_attn_kernels_inference_equivalence": _FLASH,
    "test_flash_attn_kernels_mps_inference_equivalence": _FLASH,
    "test_flex_attention_with_grads": _ACCELERATOR,
    "test_keep_in_fp32_modules": _FP32,
    "test_keep_in_fp32_modules_exist": _FP32,
    "test_kernels_can_load_without_crashing": _FLASH,
    "test_model_parallelism": "needs several accelerators",
    "test_model_rope_scaling_frequencies": _ROPE,
    "test_model_rope_scaling_from_config": _ROPE,
    "test_model_rope_with_partial_rotation": _ROPE,
    "test_moe_models_record_router_logits": _EXPERTS,
    "test_output_router_logits_from_config": _EXPERTS,
    "test_resize_embeddings_untied_with_deepspeed": _DEEPSPEED,
    "test_resize_embeddings_untied_with_deepspeed_multi_gpu": _DEEPSPEED,
    "test_resize_position_vector_embeddings": "only for models that can change their number of positions",
    "test_resize_tokens_embeddings_with_deepspeed": _DEEPSPEED,
    "test_resize_tokens_embeddings_with_deepspeed_multi_gpu": _DEEPSPEED,
    "test_reverse_loading_mapping": _CONVERSION,
    "test_sdpa_can_compile_dynamic": _ACCELERATOR,
    "test_sdpa_can_dispatch_composite_models": (
        "only for a vision tower beside a language model; test_sdpa_can_dispatch_non_composite_models runs"
    ),
    "test_sdpa_can_dispatch_on_flash": _ACCELERATOR,
    "test_sliding_window_mask": "only for models with a sliding window of their own, not an encoder's",
    "test_tied_head_has_a_tp_plan_entry": _TENSOR_PARALLEL,
    "test_torch_compile_for_training": "marked slow by transformers; RUN_SLOW=1 runs it",
    "test_tp_plan_matches_params": _TENSOR_PARALLEL,
    "test_vision_axial_rope": _ROPE,
}
