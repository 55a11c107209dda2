"""transformers' common model tests on every model class that the package shows."""

import unittest
from typing import Any

import torch
import transformers
from packaging import version
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, ids_tensor, random_attention_mask

import hf_layerfusion
from hf_layerfusion.modeling.own_encoders import OWN_ENCODERS
from tests.tiny import tiny_config

BATCH, LENGTH, LAYERS = 5, 7, 2

# What makes each configuration small; a new one needs a row here.
SMALL: dict[type[PreTrainedConfig], dict[str, Any]] = {
    hf_layerfusion.GRUFusionConfig: {
        "num_groups": 2,
        "fusion_hidden_size": 8,
        "downstream_hidden_size": 8,
        "dense_size": 16,
    },
    hf_layerfusion.LayerPoolingConfig: {},
    hf_layerfusion.CerbertusConfig: {"num_task_layers": 1},
}


class FusionModelTester:
    """Makes the small model and the inputs that the common tests ask for."""

    batch_size = BATCH
    seq_length = LENGTH
    is_training = True
    num_hidden_layers = LAYERS
    num_attention_heads = 4
    hidden_size = 32

    def __init__(self, config_class: type[PreTrainedConfig]):
        self.config_class = config_class

    def get_config(self) -> PreTrainedConfig:
        encoder_config = tiny_config("bert", num_hidden_layers=LAYERS)
        return self.config_class(encoder_config=encoder_config, num_labels=3, **SMALL[self.config_class])

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
        config = self.get_config()
        inputs = {
            "input_ids": ids_tensor([BATCH, LENGTH], config.get_text_config().vocab_size),
            "attention_mask": random_attention_mask([BATCH, LENGTH]),
        }
        return config, inputs


class CommonTests(ModelTesterMixin):
    """What the test case of one model class has beside `unittest.TestCase`."""

    def setUp(self) -> None:
        # Ours hold a configuration within theirs; most tests of such "composite" models mean vision and text.
        self._is_composite = self._testMethodName in (
            "test_attn_implementation_composite_models",
            "test_can_set_attention_dynamically_composite_model",
        )
        config_class = self.all_model_classes[0].config_class
        self.model_tester = FusionModelTester(config_class)
        self.config_tester = ConfigTester(
            self, config_class=config_class, has_text_modality=False, common_properties=["hidden_size"]
        )

    def test_config(self) -> None:
        self.config_tester.run_common_tests()

    @unittest.skipIf(version.parse(transformers.__version__) < version.parse("5.23"), "an older rule")
    def test_can_capture_specific_layers_hidden_states(self) -> None:
        super().test_can_capture_specific_layers_hidden_states()


# The common tests go by these tables: classifiers get labels, base models have no loss.
TABLES = {
    "AutoModel": MODEL_MAPPING_NAMES,
    "AutoModelForSequenceClassification": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
}

for model_class in list(vars(hf_layerfusion).values()):
    if isinstance(model_class, type) and issubclass(model_class, PreTrainedModel):
        TABLES[model_class._auto_class][model_class.config_class.model_type] = model_class.__name__
        name = f"{model_class.__name__}Test"
        globals()[name] = type(name, (CommonTests, unittest.TestCase), {"all_model_classes": (model_class,)})


# What makes each encoder of words small; without `word_pooled`, which needs a tokenizer beside its configuration.
ELMO = {
    "char_embedding_size": 4, "filters": [[1, 8], [2, 8]], "num_highway": 1, "lstm_size": 8, "projection_size": 8,
    "max_characters": 12, "train_embeddings": True,
}  # fmt: skip
STATIC = {"vocab_size": 40, "hidden_size": 16, "train_embeddings": True}
SMALL_ENCODERS: dict[str, dict[str, Any]] = {
    "elmo": ELMO,
    "flair": {"char_embedding_sizes": [4, 4], "lstm_sizes": [8, 8], "train_embeddings": True},
    "static_embeddings": STATIC,
    "embedding_stack": {
        "members": [{"model_type": "static_embeddings", **STATIC}, {"model_type": "elmo", **ELMO}],
        "vocab_size": 40,
        "train_embeddings": True,
    },
}


class WordEncoderTester(FusionModelTester):
    """Makes the small encoder of words, and ids and characters for it."""

    num_attention_heads = 1

    def get_config(self) -> PreTrainedConfig:
        config = self.config_class(**SMALL_ENCODERS[self.config_class.model_type])
        model = OWN_ENCODERS[self.config_class](config)
        self.hidden_size, self.num_hidden_layers = model.config.hidden_size, model.config.num_hidden_layers
        return config

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
        config = self.get_config()
        mask = random_attention_mask([BATCH, LENGTH])
        inputs = {
            "input_ids": ids_tensor([BATCH, LENGTH], max(1, config.vocab_size - 2)) + 1,
            "attention_mask": mask,
        }
        if "char_ids" in config.extra_inputs:
            inputs["char_ids"] = (ids_tensor([BATCH, LENGTH, 4], 26) + 97) * mask.unsqueeze(-1)
        return config, inputs


# Tests that do not apply to encoders of words, by the beginnings of their names.
NO_TESTS_OF_WORDS = (
    # They have no attention,
    "test_attention_outputs", "test_attn_implementation_composite_models", "test_can_set_attention_dynamically",
    "test_eager_matches_sdpa_inference", "test_sdpa_can_dispatch_non_composite_models",
    # no vocabulary that grows, and no embedding of ids but where noise may be added, behind the characters;
    "test_resize_tokens_embeddings", "test_resize_embeddings_untied", "test_model_get_set_embeddings",
    "test_inputs_embeds",
    # their layers need not be computed from the first one of `hidden_states`,
    "test_retain_grad_hidden_states_attentions",
    # and they are base models, without checkpointing or configurations within.
    "test_capture_outputs_decorator", "test_enable_input_require_grads_with_gradient_checkpointing",
    "test_internal_model_config_and_subconfig_are_same",
)  # fmt: skip


class WordEncoderTests(ModelTesterMixin):
    """`CommonTests` of an encoder of words."""

    has_attentions = False
    test_resize_embeddings = False

    def setUp(self) -> None:
        config_class = self.all_model_classes[0].config_class
        self.model_tester = WordEncoderTester(config_class)


for config_class, model_class in OWN_ENCODERS.items():
    if config_class.model_type in SMALL_ENCODERS:
        TABLES["AutoModel"][config_class.model_type] = model_class.__name__
        left_out = {name: None for name in dir(WordEncoderTests) if name.startswith(NO_TESTS_OF_WORDS)}
        name = f"{model_class.__name__}Test"
        content = {"all_model_classes": (model_class,), **left_out}
        globals()[name] = type(name, (WordEncoderTests, unittest.TestCase), content)
