"""What a card shows of using a model: code that can be copied."""

import json

from hf_layerfusion.hub.card_facts import CardFacts, Snippet
from hf_layerfusion.hub.markdown import escape_markdown, single_line

ONE_TEXT = '"What a lovely morning!"'
TWO_TEXTS = '{"text": "A man plays a guitar.", "text_pair": "Somebody makes music."}'


def code_string(text: str) -> str:
    """A string literal of Python on one line, for a fenced block, where Markdown escapes nothing."""
    return json.dumps(single_line(text), ensure_ascii=False)


def model_usage(facts: CardFacts) -> list[Snippet]:
    """How to use a model: in a pipeline, task by task, without the package, and its fused embeddings."""
    task, path = code_string(facts.task), code_string(facts.model_path)
    needs_import = "import hf_layerfusion  # makes the architecture known to transformers\n"
    snippets = [
        Snippet(
            "With the package installed:" if facts.needs_package else "",
            (needs_import if facts.needs_package else "")
            + "from transformers import pipeline\n\n"
            + f"classifier = pipeline({task}, model={path}, truncation=True)\n"
            + f"print(classifier({TWO_TEXTS if facts.text_pair else ONE_TEXT}))",
        )
    ]
    first, *others = facts.tasks or [""]
    if others:
        code = [
            f"classifier = pipeline({task}, model={path}, truncation=True,\n"
            f'                      model_kwargs={{"task_name": {code_string(name)}}})\n'
            f"print(classifier({TWO_TEXTS if facts.tasks[name] == 2 else ONE_TEXT}))"
            for name in others
        ]
        text = f"That is its first task, {escape_markdown(first)}. Each other is opened by its name:"
        snippets.append(Snippet(text, "\n".join(code)))
    if facts.needs_package:
        snippets += [
            Snippet(
                "Without it, from the code that lies beside the weights; read that code first, for this runs it:",
                "from transformers import pipeline\n\n"
                f"classifier = pipeline({task}, model={path}, truncation=True, trust_remote_code=True)",
            ),
            Snippet(
                "The fused embedding of each token:",
                "import hf_layerfusion\n"
                "from transformers import AutoModel, AutoTokenizer\n\n"
                f"tokenizer = AutoTokenizer.from_pretrained({path})\n"
                f"model = AutoModel.from_pretrained({path})\n"
                f'fused = model(**tokenizer({ONE_TEXT}, return_tensors="pt")).last_hidden_state',
            ),
        ]
    return snippets
