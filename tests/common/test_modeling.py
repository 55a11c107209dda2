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
