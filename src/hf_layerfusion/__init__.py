"""Getting more out of pretrained text encoders than their last layer gives.

Importing the package makes transformers' Auto classes know its models. It imports neither torch nor transformers: the
models are registered when transformers' Auto classes are first imported, before or after this package.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from threading import local
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_layerfusion.embeddings.importing import import_embeddings
    from hf_layerfusion.ensembling.ensemble import Ensemble
    from hf_layerfusion.ensembling.teacher import Teacher
    from hf_layerfusion.ensembling.verification import verify_saved
    from hf_layerfusion.hub.manifest import write_model_manifest
    from hf_layerfusion.modeling.configuration_cerbertus import CerbertusConfig
    from hf_layerfusion.modeling.configuration_gru_fusion import GRUFusionConfig
    from hf_layerfusion.modeling.configuration_layer_pooling import LayerPoolingConfig
    from hf_layerfusion.modeling.configuration_static_embeddings import StaticEmbeddingsConfig
    from hf_layerfusion.modeling.encoders import max_tokens
    from hf_layerfusion.modeling.encoders import refuse_other_inputs as refuse_other_inputs
    from hf_layerfusion.modeling.encoders import refuse_unfit as refuse_unfit
    from hf_layerfusion.modeling.fusion_pooling import SENTENCE_FUSERS as SENTENCE_FUSERS
    from hf_layerfusion.modeling.fusion_registry import TOKEN_FUSERS as TOKEN_FUSERS
    from hf_layerfusion.modeling.label_rows import relabel
    from hf_layerfusion.modeling.modeling_cerbertus import CerbertusForMultitask, MultitaskOutput
    from hf_layerfusion.modeling.modeling_cerbertus_encoders import CerbertusModel
    from hf_layerfusion.modeling.modeling_gru_fusion import BertForGRUFusionClassification, GRUFusionModel
    from hf_layerfusion.modeling.modeling_layer_pooling import BertWithPoolingModule, LayerPoolingModel
    from hf_layerfusion.modeling.modeling_static_embeddings import StaticEmbeddingsModel
    from hf_layerfusion.modeling.parameter_counts import parameter_counts
    from hf_layerfusion.modeling.task_config import TaskConfig
    from hf_layerfusion.multitask_pipeline import MultitaskPipeline
    from hf_layerfusion.probing.layer_probe import layer_probe, layer_probes
    from hf_layerfusion.text_pipeline import preprocess
    from hf_layerfusion.training.adapters import AdaptedModel, add_adapters, load_adapter_model
    from hf_layerfusion.training.trainer import LayerFusionTrainer
    from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

__version__ = "0.2.0"

_MODULES = {
    "AdaptedModel": "hf_layerfusion.training.adapters",
    "BertForGRUFusionClassification": "hf_layerfusion.modeling.modeling_gru_fusion",
    "BertWithPoolingModule": "hf_layerfusion.modeling.modeling_layer_pooling",
    "CerbertusConfig": "hf_layerfusion.modeling.configuration_cerbertus",
    "CerbertusForMultitask": "hf_layerfusion.modeling.modeling_cerbertus",
    "CerbertusModel": "hf_layerfusion.modeling.modeling_cerbertus_encoders",
    "Ensemble": "hf_layerfusion.ensembling.ensemble",
    "GRUFusionConfig": "hf_layerfusion.modeling.configuration_gru_fusion",
    "GRUFusionModel": "hf_layerfusion.modeling.modeling_gru_fusion",
    "LayerFusionTrainer": "hf_layerfusion.training.trainer",
    "LayerFusionTrainingArguments": "hf_layerfusion.training.training_arguments",
    "LayerPoolingConfig": "hf_layerfusion.modeling.configuration_layer_pooling",
    "LayerPoolingModel": "hf_layerfusion.modeling.modeling_layer_pooling",
    "MultitaskOutput": "hf_layerfusion.modeling.modeling_cerbertus",
    "MultitaskPipeline": "hf_layerfusion.multitask_pipeline",
    "SENTENCE_FUSERS": "hf_layerfusion.modeling.fusion_pooling",
    "TOKEN_FUSERS": "hf_layerfusion.modeling.fusion_registry",
    "StaticEmbeddingsConfig": "hf_layerfusion.modeling.configuration_static_embeddings",
    "StaticEmbeddingsModel": "hf_layerfusion.modeling.modeling_static_embeddings",
    "TaskConfig": "hf_layerfusion.modeling.task_config",
    "Teacher": "hf_layerfusion.ensembling.teacher",
    "import_embeddings": "hf_layerfusion.embeddings.importing",
    "add_adapters": "hf_layerfusion.training.adapters",
    "layer_probe": "hf_layerfusion.probing.layer_probe",
    "layer_probes": "hf_layerfusion.probing.layer_probe",
    "load_adapter_model": "hf_layerfusion.training.adapters",
    "max_tokens": "hf_layerfusion.modeling.encoders",
    "parameter_counts": "hf_layerfusion.modeling.parameter_counts",
    "preprocess": "hf_layerfusion.text_pipeline",
    "refuse_other_inputs": "hf_layerfusion.modeling.encoders",
    "refuse_unfit": "hf_layerfusion.modeling.encoders",
    "relabel": "hf_layerfusion.modeling.label_rows",
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
    "Teacher",
    "add_adapters",
    "import_embeddings",
    "layer_probe",
    "layer_probes",
    "load_adapter_model",
    "max_tokens",
    "parameter_counts",
    "preprocess",
    "relabel",
    "verify_saved",
    "write_model_manifest",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


def _register_models() -> None:
    """Make the Auto classes and `pipeline` know the models, here and, through the code saved with a checkpoint, where
    the package is not installed."""
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    for names in (
        ("GRUFusionConfig", "GRUFusionModel", "BertForGRUFusionClassification"),
        ("LayerPoolingConfig", "LayerPoolingModel", "BertWithPoolingModule"),
        ("CerbertusConfig", "CerbertusModel", "CerbertusForMultitask"),
    ):
        config, model, classifier = map(__getattr__, names)
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)
        AutoModelForSequenceClassification.register(config, classifier, exist_ok=True)
        config.register_for_auto_class()
        model.register_for_auto_class("AutoModel")
        classifier.register_for_auto_class("AutoModelForSequenceClassification")


def _register_pipeline() -> None:
    """Make `pipeline` prepare texts as the models' training texts were."""
    import_module("hf_layerfusion.text_pipeline")


class _Transformers(MetaPathFinder):
    """Registers the models and the pipeline once modules of transformers are imported, and none of them halfway.

    Attributes:
        pending: the functions to call, by the module of transformers that they need.
    """

    def __init__(self) -> None:
        self.importing = local()
        self.pending = {
            "transformers.models.auto.configuration_auto": _register_models,
            "transformers.pipelines": _register_pipeline,
        }

    def register(self) -> None:
        """Call the functions whose modules are imported, each once."""
        for name in [name for name in self.pending if name in sys.modules]:
            if (function := self.pending.pop(name, None)) is not None:
                function()
        if not self.pending and self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module of transformers with a loader that looks whether to register, None of others."""
        if not fullname.startswith("transformers."):
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_look(module: ModuleType) -> None:
            depth = getattr(self.importing, "depth", 0)
            self.importing.depth = depth + 1
            try:
                execute(module)
            finally:
                self.importing.depth = depth
            if depth == 0:
                self.register()

        vars(spec.loader)["exec_module"] = execute_and_look
        return spec


_TRANSFORMERS = _Transformers()
sys.meta_path.insert(0, _TRANSFORMERS)
_TRANSFORMERS.register()
