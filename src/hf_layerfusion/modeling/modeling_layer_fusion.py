"""Base classes of all models of the package: an encoder of any architecture with a fuser over its layers.

They load from the checkpoint of a plain encoder or from their own.
"""

import dataclasses
import math
import os
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from huggingface_hub import ModelCard
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.dynamic_module_utils import custom_object_save
from transformers.modeling_outputs import BaseModelOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .bare_card import TEMPLATE_SIGN, bare_card
from .configuration_layer_fusion import LayerFusionConfig
from .empty_texts import pads_empty_texts
from .encoder_states import StateSpec, hidden_state_indices, normalized_states, scatter_states
from .encoders import (
    adopt_encoder_config,
    build_encoder,
    choose_normalization,
    complete_inputs,
    encoder_of,
    final_norm,
    freeze_word_encoder,
    length_before_padding,
    missing_in_part,
    position_limit,
    refuse_long,
    refuse_missing,
    without_pooler,
)
from .fusion_base import LayerFuser
from .fusion_mix import ScalarMix
from .heads import ZeroLinear
from .label_rows import RequestedLabels, pop_labels, set_labels
from .layer_streaming import install_stream, run_streamed
from .peft_adapters import find_adapters, from_adapters
from .pickling import PickledWithoutHooks
from .remote_code import save_code
from .revisions import REVISION_OPTIONS, resolve_revision
from .saved_files import write_manifest
from .windows import WindowPooling

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
# Fields of every configuration that determine how the encoder is loaded, not what the model is.
LOADING_FIELDS = {"dtype"}
# Prefixes of the names of the encoders' weights.
ENCODER_PREFIXES = ("encoder", "model.encoder")


class LayerFusionPreTrainedModel(PickledWithoutHooks, PreTrainedModel):
    """Base class of the package's models: loading, saving and initialization."""

    config: LayerFusionConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    # The loss is a mean over the batch, so the Trainer must divide it when it accumulates gradients.
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *model_args: Any,
        config: PreTrainedConfig | str | os.PathLike[str] | None = None,
        use_safetensors: bool | None = True,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load a checkpoint of this class, or build a new model around the checkpoint of a plain encoder.

        The plain encoder may be of any architecture and key style; all other parts of the model are then initialized at
        random. A folder of adapters is loaded onto the checkpoint that they name.

        Args:
            pretrained_model_name_or_path: Folder or Hub id.
            config: Configuration; for a plain encoder, its `encoder_config` is replaced by the encoder's. If this or
                `kwargs` name other labels than the checkpoint of a model of this package, the rows of its head follow
                the names; new rows are initialized at random, with a warning.
            use_safetensors: `True` refuses weights stored as pickle; `None` or `False` accepts them.
            output_loading_info: Whether to return the model and transformers' report of missing and unexpected weights.
                Missing weights of the encoder are then not an error.
            kwargs: Arguments of `PreTrainedModel.from_pretrained`, and fields of the configuration (`fusion`,
                `num_labels`, …). `encoder_config` may be a dict of the encoder's fields that should differ from the
                checkpoint's, such as `{"hidden_dropout_prob": 0.2}`.

        Raises:
            ValueError: If the checkpoint lacks weights of the encoder, which would stay random.
        """
        # The Auto classes pass this if they were given adapters and have resolved the checkpoint below them.
        source = (kwargs.get("adapter_kwargs") or {}).get(
            "_adapter_model_path", pretrained_model_name_or_path
        )
        asked = RequestedLabels()
        if source is not None:
            options = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
            access = {name: options[name] for name in REVISION_OPTIONS if name in options}
            revision = resolve_revision(pretrained_model_name_or_path, options.get("revision"), **access)
            if revision is not None:
                kwargs["revision"] = options["revision"] = revision
            stored, _ = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **options)
            tasks = getattr(config, "tasks", None) or stored.get("tasks") or ()
            adapter_options = options | (kwargs.pop("adapter_kwargs", None) or {})
            adapter_options.pop("_adapter_model_path", None)
            if adapters := find_adapters(source, list(tasks), **adapter_options):
                config, asked = pop_labels(cls, source, config, kwargs, adapter_options)
                kwargs |= {"use_safetensors": use_safetensors, "output_loading_info": output_loading_info}
                return from_adapters(cls, source, adapters, adapter_options, config, asked, **kwargs)
            if stored.get("model_type") != cls.config_class.model_type:
                kwargs["use_safetensors"] = use_safetensors
                return cls._from_encoder(
                    str(pretrained_model_name_or_path), config, output_loading_info, **kwargs
                )
            if config is None and kwargs.get("tasks") and stored.get("task_name") not in kwargs["tasks"]:
                # The stored default task is none of the new tasks.
                kwargs.setdefault("task_name", next(iter(kwargs["tasks"])))
            config, asked = pop_labels(cls, source, config, kwargs, options)
        model, info = super().from_pretrained(
            pretrained_model_name_or_path,
            *model_args,
            config=config,
            use_safetensors=use_safetensors,
            output_loading_info=True,
            **kwargs,
        )
        if pretrained_model_name_or_path is not None and not output_loading_info:
            missing = [name for name in info["missing_keys"] if name.startswith(ENCODER_PREFIXES)]
            refuse_missing(missing, pretrained_model_name_or_path, model.config.get_text_config().model_type)
        model.set_labels(asked)
        # Loading replaces the frozen parameters by new ones.
        model.freeze()
        model.base_model.choose_normalization()
        return (model, info) if output_loading_info else model

    def set_labels(self, asked: RequestedLabels) -> None:
        """Change the labels of a head that was loaded with its checkpoint's labels; see `label_rows.set_labels`."""
        set_labels(self, asked)

    def freeze(self) -> None:
        """Switch off the gradients of the parts that the configuration keeps at their initial values."""
        if self.base_model is not self:
            self.base_model.freeze()

    def choose_normalization(self) -> None:
        """Decide whether the layers are normalized before fusion, if the configuration leaves it open."""

    @classmethod
    def encoder_arguments(cls, config: Any) -> dict[str, bool]:
        """Return the arguments for loading a checkpoint of the encoder that `config` describes."""
        return without_pooler(config.encoder_config)

    @classmethod
    def may_start_at_random(cls, name: str, config: Any) -> bool:
        """Return whether the checkpoint of a plain encoder may lack the encoder's weight `name`."""
        return False

    @classmethod
    def _from_encoder(
        cls,
        name_or_path: str | os.PathLike[str],
        config: PreTrainedConfig | str | os.PathLike[str] | None,
        output_loading_info: bool,
        **kwargs: Any,
    ) -> Any:
        fields = {field.name for field in dataclasses.fields(cls.config_class)} | {"num_labels"}
        settings = {name: kwargs.pop(name) for name in list(kwargs) if name in fields - LOADING_FIELDS}
        options = {name: kwargs[name] for name in (*HUB_OPTIONS, "trust_remote_code") if name in kwargs}
        changes = settings.pop("encoder_config", None)
        changes = changes if isinstance(changes, dict) else {}
        encoder_config = AutoConfig.from_pretrained(name_or_path, **options, **changes)
        # Settings that do not fit the encoder are refused here, before any weight is read.
        if isinstance(config, PreTrainedConfig):
            settings = {**config.to_diff_dict(), **settings}
        elif config is not None:
            settings = {**cls.config_class.get_config_dict(config, **options)[0], **settings}
        settings["encoder_config"] = encoder_config
        settings.pop("model_type", None)
        settings.pop("final_norm", None)  # that of another encoder
        config = cls.config_class(**settings)
        whole, info = AutoModel.from_pretrained(
            name_or_path,
            config=encoder_config,
            output_loading_info=True,
            **cls.encoder_arguments(config),
            **kwargs,
        )
        encoder = encoder_of(whole)
        missing = missing_in_part(info["missing_keys"], whole, encoder)
        missing = [name for name in missing if not cls.may_start_at_random(name, config)]
        refuse_missing(missing, name_or_path, encoder_config.model_type)
        if os.path.isdir(name_or_path):
            encoder.config._name_or_path = ""  # a local path is of no use to others
        model = cls(config, encoder=encoder).to(encoder.device).eval()
        # Not of the encoder, whose rotary frequencies stay in float32 and whose quantized weights are integers.
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if not name.startswith(ENCODER_PREFIXES) and value.is_floating_point():
                value.data = value.data.to(encoder.dtype)
        # Not saved; adapters store it as the name of their base model.
        model.name_or_path = os.fspath(name_or_path)
        if not output_loading_info:
            return model
        added = {name for name in model.state_dict() if not name.startswith(ENCODER_PREFIXES)}
        return model, {**info, "missing_keys": added}

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save the model as transformers does, with a manifest of checksums.

        The folder of a classifier also states where remote code finds its base model, so that `AutoModel` can open it
        too. If adapters were loaded into the model, only the active adapter is saved.
        """
        self._map_base_model()
        super().save_pretrained(save_directory, **kwargs)
        if self.should_save_on_this_rank(kwargs.get("is_main_process", True)):
            if self._hf_peft_config_loaded:
                self.save_configuration(save_directory)
            save_code(self, save_directory)
            write_manifest(save_directory)

    def save_configuration(self, save_directory: str | os.PathLike[str]) -> None:
        """Save everything except the weights: the configuration, and the code for environments without the package."""
        self._map_base_model()
        self.config.architectures = [type(self).__name__]
        if self._auto_class is not None:
            custom_object_save(self, save_directory, config=self.config)
        self.config.save_pretrained(save_directory)
        save_code(self, save_directory)

    def _map_base_model(self) -> None:
        if self._auto_class is not None:
            base = type(self.base_model)
            auto_map = dict(getattr(self.config, "auto_map", None) or {})
            auto_map["AutoModel"] = f"{base.__module__.rsplit('.', 1)[-1]}.{base.__name__}"
            self.config.auto_map = auto_map

    def _upload_modified_files(
        self, working_dir: str | os.PathLike[str], repo_id: str, *args: Any, **kwargs: Any
    ) -> Any:
        # The last step of `push_to_hub`, which would give a repository without a card an unfilled template.
        path = os.path.join(working_dir, "README.md")
        card = ModelCard.load(path)
        if TEMPLATE_SIGN in card.text:
            bare_card(self, repo_id, card.data.tags or []).save(path)
        # `save_pretrained(push_to_hub=True)` uploads before it writes its own manifest.
        write_manifest(working_dir)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    def _init_weights(self, module: nn.Module) -> None:
        """Initialize a module: Glorot for dense layers (GRUBERT, section 2.3), torch's own rule for recurrences.

        An encoder initializes itself.
        """
        if isinstance(module, LayerFuser | ScalarMix | WindowPooling):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            if isinstance(module, ZeroLinear):
                init.zeros_(module.weight)
            else:
                init.xavier_normal_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.GRU | nn.LSTM):
            bound = 1 / math.sqrt(module.hidden_size)
            for parameter in module.parameters():
                init.uniform_(parameter, -bound, bound)
        else:
            super()._init_weights(module)


class LayerFusionModel(LayerFusionPreTrainedModel):
    """Encoder of any architecture with a fuser over the outputs of its layers.

    Args:
        config: Configuration of the model.
        encoder: Loaded encoder; by default it is built from `config.encoder_config` with random weights.
    """

    def __init__(self, config: LayerFusionConfig, encoder: PreTrainedModel | None = None):
        super().__init__(config)
        # Build the fuser first, so that it refuses unsuitable settings before the encoder takes memory.
        self.fuser = self.build_fuser(config)
        if encoder is None:
            encoder = build_encoder(config.encoder_config)
        self.encoder = encoder
        self.streams_layers = False
        adopt_encoder_config(config, encoder)
        self._positions = position_limit(encoder)
        self.choose_normalization()
        self.freeze()
        self.post_init()

    def choose_normalization(self) -> None:
        """Decide whether the layers are normalized before fusion; see `encoders.choose_normalization`."""
        choose_normalization(self.config, self.encoder)

    def freeze(self) -> None:
        """Switch off the gradients of the fuser if `freeze_fusion` is set."""
        freeze_word_encoder(self.encoder)
        if getattr(self.config, "freeze_fusion", False):
            self.fuser.requires_grad_(False)

    @staticmethod
    @abstractmethod
    def build_fuser(config: Any) -> LayerFuser:
        """Return the fuser that `config` names."""

    @property
    def max_tokens(self) -> int | None:
        """Maximum number of tokens of a text; `None` without a limit, also where long texts are read in windows."""
        return None if getattr(self.config, "window_size", None) else self._positions

    def stream_layers(self) -> None:
        """Fuse each layer as soon as it is computed from now on, so that its state need not be kept; for inference.

        The model then returns no hidden states. The setting is not saved.

        Raises:
            ValueError: If the encoder's layers are not in one list.
        """
        if not self.streams_layers:
            install_stream(self.encoder)
        self.streams_layers = True

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings of the encoder."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings of the encoder."""
        self.encoder.set_input_embeddings(value)

    def encode_and_fuse(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        encoder_states: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, BaseModelOutput]:
        """Run the encoder and fuse the outputs of its layers.

        Args:
            input_ids: Token ids `[B, T]`.
            attention_mask: `[B, T]`, 1 for real tokens, 0 for padding; by default every position is real.
            token_type_ids: `[B, T]`, for encoders that distinguish the texts of a pair.
            inputs_embeds: `[B, T, H]` in place of `input_ids`.
            encoder_states: `[B, R, T, H]` from `read_states` for these texts, in place of all inputs of the encoder,
                which then does not run.
            kwargs: Further arguments of the encoder; `output_hidden_states` may be a list of indices.

        Returns:
            The fused states, `[B, T, D]` or `[B, D]`, and the encoder's own output, with `hidden_states` (embeddings
            and L layers) and `attentions` only if requested.

        Raises:
            ValueError: If the encoder does not return the states of its layers, if `encoder_states` come with other
                inputs or in another shape, or if hidden states are requested after `stream_layers`.
        """
        if encoder_states is not None:
            other_inputs = {
                "input_ids": input_ids, "token_type_ids": token_type_ids, "inputs_embeds": inputs_embeds, **kwargs
            }  # fmt: skip
            depth = self.config.num_hidden_layers
            given = scatter_states(encoder_states.to(self.dtype), self.state_spec, depth, other_inputs)
            return self.fuser(given, attention_mask), BaseModelOutput(last_hidden_state=given[-1])
        if self.streams_layers:
            if kwargs.pop("output_hidden_states", None) or self.config.output_hidden_states:
                raise ValueError(
                    "`output_hidden_states` must be left out after `stream_layers`, which keeps none, found it set; "
                    "load the model again for hidden states."
                )
            inputs = self.encoder_inputs(input_ids, attention_mask, token_type_ids, inputs_embeds, **kwargs)
            norm = final_norm(self.config, self.encoder)
            fused, encoded = run_streamed(self.encoder, self.fuser, norm, **inputs)
            return fused, BaseModelOutput(encoded.last_hidden_state, attentions=encoded.attentions)
        states, outputs = self.encode(input_ids, attention_mask, token_type_ids, inputs_embeds, **kwargs)
        return self.fuser(states, attention_mask), outputs

    @property
    def state_spec(self) -> StateSpec:
        """Specification of the states that `read_states` returns."""
        return StateSpec(self.fuser.layers, self.fuser.token_selection, self.config.hidden_size)

    @pads_empty_texts
    def read_states(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Run the encoder and return the states that the fuser uses, `[B, R, T, H]`.

        They are the layers and tokens of `state_spec`, with T = 1 or 2 if these are one or two vectors per text. Pass
        them as `encoder_states` to skip the encoder.
        """
        states, _ = self.encode(input_ids, attention_mask, token_type_ids, **kwargs)
        return self.fuser.select_states(states, attention_mask)

    def encode(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[Sequence[torch.Tensor], BaseModelOutput]:
        """Return the states of the encoder's L layers that are fused, each `[B, T, H]`, and its own output.

        The states are normalized where `config.normalize_layers` is true; the `hidden_states` of the encoder's output
        are not. The arguments are those of `encode_and_fuse`.
        """
        asked = kwargs.pop("output_hidden_states", None)
        asked = self.config.output_hidden_states if asked is None else asked
        depth = self.config.num_hidden_layers
        inputs = self.encoder_inputs(input_ids, attention_mask, token_type_ids, inputs_embeds, **kwargs)
        outputs = self.encoder(**inputs, output_hidden_states=True, return_dict=True)
        states = outputs.hidden_states
        if states is None or len(states) != depth + 1:
            found = "none" if states is None else len(states)
            raise ValueError(
                f"the encoder must return the states of its embeddings and {depth} layers, found {found} from "
                f"'{self.config.get_text_config().model_type}'; use an encoder that does."
            )
        length = length_before_padding(self.encoder, inputs)
        if length is not None:
            states = tuple(state[:, :length] for state in states)
        shown = hidden_state_indices(asked, depth)
        norm = final_norm(self.config, self.encoder)
        fused = normalized_states(states[1:], outputs.last_hidden_state, norm, self.fuser.layers)
        return fused, BaseModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=tuple(s if i in shown else None for i, s in enumerate(states)) if shown else None,
            attentions=outputs.attentions,
        )

    def encoder_inputs(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> dict[str, Any]:
        """Return the arguments for the encoder; token types and embeddings are left out if they are not given."""
        given: dict[str, Any] = {**kwargs, "input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            given["token_type_ids"] = token_type_ids
        if given.get("output_attentions") is None:
            given["output_attentions"] = self.config.output_attentions
        if inputs_embeds is not None:
            given["inputs_embeds"] = inputs_embeds
        refuse_long(given, self._positions, self.config.get_text_config())
        return complete_inputs(self.encoder, given)
