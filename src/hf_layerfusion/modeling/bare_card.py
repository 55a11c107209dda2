"""Model card written by `push_to_hub` for a model about which nothing but its architecture is known."""

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel

# Placeholder for each missing fact in transformers' card template.
TEMPLATE_SIGN = "[More Information Needed]"


def bare_card(model: PreTrainedModel, repo_id: str, tags: list[str]) -> ModelCard:
    """Return a card that states what a model is and how to load it, and nothing else.

    Args:
        model: A model of this package.
        repo_id: Hub id of the repository that the model is pushed to.
        tags: Tags given by the user, added to those of the package.
    """
    config = model.config
    auto_class = model._auto_class or "AutoModel"
    is_classifier = "Classification" in auto_class
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification" if is_classifier else "feature-extraction",
        tags=list(dict.fromkeys(["hf_layerfusion", "layer-fusion", *tags])),
    )
    encoder = config.get_text_config()
    return ModelCard(
        f"""---
{data.to_yaml()}
---

# {repo_id.rpartition("/")[2]}

{type(model).__name__} ({config.paper_name}) on an encoder of the type {encoder.model_type} with
{encoder.num_hidden_layers} layers, {model.num_parameters():,} parameters in all; made with the Python package
hf_layerfusion. This card does not record how the model was trained or how well it performs.

```python
import hf_layerfusion  # or, without the package, trust_remote_code=True below: read that code first
from transformers import {auto_class}

model = {auto_class}.from_pretrained("{repo_id}")
```
"""
    )
