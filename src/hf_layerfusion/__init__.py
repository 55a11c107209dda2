"""Getting more out of pretrained text encoders than their last layer gives.

Importing the package registers its models with transformers' Auto classes.
"""

from importlib import import_module
from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from hf_layerfusion.modeling.configuration_cerbertus import CerbertusConfig
from hf_layerfusion.modeling.configuration_gru_fusion import GRUFusionConfig
from hf_layerfusion.modeling.configuration_layer_pooling import LayerPoolingConfig
from hf_layerfusion.modeling.configuration_static_embeddings import StaticEmbeddingsConfig
from hf_layerfusion.modeling.encoders import max_tokens
from hf_layerfusion.modeling.label_rows import relabel
from hf_layerfusion.modeling.modeling_cerbertus import CerbertusForMultitask, MultitaskOutput
from hf_layerfusion.modeling.modeling_cerbertus_encoders import CerbertusModel
from hf_layerfusion.modeling.modeling_gru_fusion import BertForGRUFusionClassification, GRUFusionModel
from hf_layerfusion.modeling.modeling_layer_pooling import BertWithPoolingModule, LayerPoolingModel
from hf_layerfusion.modeling.modeling_static_embeddings import StaticEmbeddingsModel
from hf_layerfusion.modeling.parameter_counts import parameter_counts
from hf_layerfusion.modeling.pipeline_multitask import MultitaskPipeline
from hf_layerfusion.modeling.task_config import TaskConfig

__version__ = "0.2.0"

# Heavy or rarely needed names, imported when first asked for.
_LAZY = {
    "AdaptedModel": "hf_layerfusion.training.adapters",
    "Ensemble": "hf_layerfusion.ensembling.ensemble",
    "LayerFusionTrainer": "hf_layerfusion.training.trainer",
    "LayerFusionTrainingArguments": "hf_layerfusion.training.training_arguments",
    "import_embeddings": "hf_layerfusion.embeddings.importing",
    "add_adapters": "hf_layerfusion.training.adapters",
    "layer_probe": "hf_layerfusion.probing.layer_probe",
    "layer_probes": "hf_layerfusion.probing.layer_probe",
    "load_adapter_model": "hf_layerfusion.training.adapters",
    "verify_saved": "hf_layerfusion.ensembling.verification",
    "write_model_manifest": "hf_layerfusion.hub.manifest",
}

__all__ = [
    "AdaptedModel",
    "BertForGRUFusionClassification",
    "BertWithPoolingModule",
    "CerbertusConfig",
    "CerbertusForMultitask",
    "CerbertusModel",
    "Ensemble",
    "GRUFusionConfig",
    "GRUFusionModel",
    "LayerFusionTrainer",
    "LayerFusionTrainingArguments",
    "LayerPoolingConfig",
    "LayerPoolingModel",
    "MultitaskOutput",
    "MultitaskPipeline",
    "StaticEmbeddingsConfig",
    "StaticEmbeddingsModel",
    "TaskConfig",
    "add_adapters",
    "import_embeddings",
    "layer_probe",
    "layer_probes",
    "load_adapter_model",
    "max_tokens",
    "parameter_counts",
    "relabel",
    "verify_saved",
    "write_model_manifest",
]


def _register(config: Any, model: Any, classifier: Any) -> None:
    """Makes the Auto classes and `pipeline` know a configuration and its models, here and, through the code saved
    with a checkpoint, where the package is not installed."""
    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModel.register(config, model, exist_ok=True)
    AutoModelForSequenceClassification.register(config, classifier, exist_ok=True)
    config.register_for_auto_class()
    model.register_for_auto_class("AutoModel")
    classifier.register_for_auto_class("AutoModelForSequenceClassification")


_register(GRUFusionConfig, GRUFusionModel, BertForGRUFusionClassification)
_register(LayerPoolingConfig, LayerPoolingModel, BertWithPoolingModule)
_register(CerbertusConfig, CerbertusModel, CerbertusForMultitask)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
