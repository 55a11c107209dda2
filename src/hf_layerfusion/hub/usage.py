"""Code examples of a model card."""

import json

from hf_layerfusion.hub.card_facts import CardFacts, Snippet
from hf_layerfusion.hub.markdown import escape_markdown, single_line

EXAMPLES = ("What a lovely morning!", "My phone died again and I missed the train.")
ONE_TEXT = '"What a lovely morning!"'
TWO_TEXTS = '{"text": "A man plays a guitar.", "text_pair": "Somebody makes music."}'


def code_string(text: str) -> str:
    """Return a Python string literal on one line, for a fenced block, in which Markdown escapes nothing."""
    return json.dumps(single_line(text), ensure_ascii=False)


def model_usage(facts: CardFacts) -> list[Snippet]:
    """Return code examples: all tasks at once, the pipeline, loading without the package, and fused embeddings."""
    apart = ", ".join(map(escape_markdown, facts.separate_pairs))
    task, path = code_string(facts.task), code_string(facts.model_path)
    needs_import = "import hf_layerfusion  # makes the architecture known to transformers\n"
    snippets = []
    if facts.tasks:
        asked = [text for number, text in ((1, ONE_TEXT), (2, TWO_TEXTS)) if number in facts.tasks.values()]
        code = [
            "from hf_layerfusion import MultitaskPipeline",
            "",
            f"ask = MultitaskPipeline.from_pretrained({path})",
        ]
        snippets.append(
            Snippet(
                "Every task in one pass, with the package installed"
                + (f"; transformers' pipeline cannot read pairs apart ({apart}):" if apart else ":"),
                "\n".join([*code, *(f"print(ask({text}))" for text in asked)]),
            )
        )
    first, *others = facts.tasks or [""]
    is_answered = first not in facts.separate_pairs  # by transformers' pipeline
    imports = (needs_import if facts.needs_package else "") + "from transformers import pipeline\n\n"
    if is_answered:
        title = "With the package installed:" if facts.needs_package else ""
        snippets.append(
            Snippet(
                "One task by the pipeline of transformers:" if facts.tasks else title,
                imports
                + f"classifier = pipeline({task}, model={path}, truncation=True)\n"
                + f"print(classifier({TWO_TEXTS if facts.text_pair else ONE_TEXT}))",
            )
        )
    others = [name for name in others if name not in facts.separate_pairs]
    if others:
        code = [
            f"classifier = pipeline({task}, model={path}, truncation=True,\n"
            f'                      model_kwargs={{"task_name": {code_string(name)}}})\n'
            f"print(classifier({TWO_TEXTS if facts.tasks[name] == 2 else ONE_TEXT}))"
            for name in others
        ]
        used = f"This uses the first task, {escape_markdown(first)}. " if is_answered else ""
        text = f"{used}Select another task by its name:"
        snippets.append(Snippet(text, ("" if is_answered else imports) + "\n".join(code)))
    if facts.needs_package and is_answered:
        snippets.append(
            Snippet(
                "Without the package, using the code saved with the weights. Read that code first, because this "
                "runs it:",
                "from transformers import pipeline\n\n"
                f"classifier = pipeline({task}, model={path}, truncation=True, trust_remote_code=True)",
            )
        )
    if facts.needs_package:
        snippets.append(
            Snippet(
                "The encoder's state of each token:" if facts.tasks else "The fused embedding of each token:",
                "import hf_layerfusion\n"
                "from transformers import AutoModel, AutoTokenizer\n\n"
                f"tokenizer = AutoTokenizer.from_pretrained({path})\n"
                f"model = AutoModel.from_pretrained({path})\n"
                f'fused = model(**tokenizer({ONE_TEXT}, return_tensors="pt")).last_hidden_state',
            )
        )
    return snippets
