"""The card of a model of which no more is known than what it is."""

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel

# What transformers' template has in place of each fact.
TEMPLATE_SIGN = "[More Information Needed]"


def bare_card(model: PreTrainedModel, repo_id: str, tags: list[str]) -> ModelCard:
    """A card that says what a model is and how to open it, and leaves out the rest.

    Args:
        model: of the package.
        repo_id: where it is pushed to.
        tags: of the user's, beside ours.
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
hf_layerfusion. How it was trained and what it reaches is not recorded in this card.

```python
import hf_layerfusion  # or, without the package, trust_remote_code=True below: read that code first
from transformers import {auto_class}

model = {auto_class}.from_pretrained("{repo_id}")
```
"""
    )
