"""The models: encoder, fuser, head. Flat, and importing only torch, transformers and its own siblings."""

# First of all, as registering the models imports every module here: none may be imported halfway by then.
import transformers.models.auto.modeling_auto  # noqa: F401
