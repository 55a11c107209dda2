"""The page of a demo, made with Gradio."""

import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

from hf_layerfusion.app.answer_view import render_answer, render_message
from hf_layerfusion.app.answers import Demo
from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.predictions import read_rows
from hf_layerfusion.hub.markdown import escape_markdown
from hf_layerfusion.hub.usage import EXAMPLES

logger = logging.getLogger(__name__)

MOST_UPLOADED = "20mb"
MOST_NAMED = 12
KEPT_SECONDS = 3600
"""Seconds for which the files of predictions are kept for their download."""
FAILURE = "The demo could not answer this; its log says why."


def gradio() -> Any:
    """Return the module `gradio`.

    Raises:
        UserError: It is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise UserError(
            'the demo needs Gradio, which is not installed; install it (pip install "hf_layerfusion[app]")'
        ) from error
    return gradio


def answer_text(demo: Demo, text: str, second: str = "") -> str:
    """Return the answer to a text or pair as HTML; for bad input a sentence that says what to do."""
    return guarded(lambda: render_answer(demo.answer(text, second)))


def answer_file(
    demo: Demo, path: str | None, text_column: str, text_pair_column: str = ""
) -> tuple[str, list[str]]:
    """Return a sentence on the answers to a file as HTML, and the files of predictions; none for bad input."""
    files: list[str] = []

    def answer() -> str:
        if not path:
            raise UserError("Choose a file first: csv, tsv, json, jsonl or parquet.")
        folder = new_answers_folder()
        found = demo.predict_file(Path(path), text_column or "", text_pair_column or "", folder)
        files.extend(map(str, found))
        count = len(read_rows(found[0]))
        what = "1 row was" if count == 1 else f"{count:,} rows were"
        return f"<p>{what} answered; download the predictions below.</p>"

    return guarded(answer), files


@cache
def _answers_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="hf_layerfusion-answers-")  # removed when the process ends


def new_answers_folder() -> Path:
    """Return a new temporary folder for the answers to a file, and delete those that are older than `KEPT_SECONDS`.

    They hold the users' texts, and Gradio has copies of what it serves.
    """
    top = Path(_answers_folder().name)
    top.mkdir(exist_ok=True)  # as a system may clean up temporary folders
    for folder in top.iterdir():
        with suppress(FileNotFoundError):  # another thread may have deleted it
            is_written = any(folder.iterdir())
            if is_written and time.time() - folder.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=top))


def guarded(answer: Callable[[], str]) -> str:
    """Return HTML, or a sentence in its place if the input is bad or something fails."""
    try:
        return answer()
    except UserError as error:
        return render_message(str(error))
    except Exception:
        logger.exception("the demo failed")
        return render_message(FAILURE)


def build_page(demo: Demo, title: str) -> Any:
    """Return the page as `gradio.Blocks`.

    Raises:
        UserError: Gradio is not installed.
    """
    gr = gradio()
    pairs = demo.takes_pairs
    with gr.Blocks(title=title, analytics_enabled=False) as page:
        gr.Markdown(f"## {escape_markdown(title)}\n\n{_summary(demo)}")
        with gr.Tab("Text"), gr.Row():
            with gr.Column():
                text = gr.Textbox(label="Text", lines=3, placeholder="Type a text", elem_id="text")
                second = gr.Textbox(
                    label="Second text" + ("" if demo.needs_pairs else " (of a pair; may be left out)"),
                    lines=3,
                    visible=pairs,
                    elem_id="second",
                )
                button = gr.Button("Answer", variant="primary", elem_id="answer")
                if not demo.needs_pairs:
                    gr.Examples([[example] for example in EXAMPLES], [text])
            with gr.Column():
                answer = gr.HTML(elem_id="answer-view", container=True, label="Answer")
        with gr.Tab("File"):
            gr.Markdown("Upload a file with a column of texts, and get the predictions as csv.")
            with gr.Row():
                file = gr.File(label="csv, tsv, json, jsonl or parquet", elem_id="file")
                with gr.Column():
                    column = gr.Textbox(label="Column of the texts", value="text", elem_id="column")
                    second_column = gr.Textbox(
                        label="Column of the second texts (of pairs)", visible=pairs, elem_id="second-column"
                    )
                    file_button = gr.Button("Predict", variant="primary", elem_id="predict")
            message = gr.HTML(elem_id="message")
            found = gr.File(
                label="Predictions", file_count="multiple", interactive=False, elem_id="predictions"
            )
        # One call at a time: the model is shared.
        shared: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
        ask = partial(answer_text, demo)
        gr.on(
            [button.click, text.submit, second.submit],
            ask,
            [text, second],
            [answer],
            api_name="answer",
            **shared,
        )
        file_button.click(
            partial(answer_file, demo),
            [file, column, second_column],
            [message, found],
            api_name="predict",
            **shared,
        )
    return page


def launch(
    name_or_path: str,
    port: int | None = None,
    use_cpu: bool = False,
    trust_remote_code: bool = False,
    title: str | None = None,
) -> None:
    """Open a model and serve its demo until the process is ended.

    Args:
        name_or_path: Folder or Hub id of a trained model or ensemble.
        port: Port of the page; by default the first free one from 7860 on, or that of `GRADIO_SERVER_PORT`.
        use_cpu: Run on the CPU where there is a GPU too.
        trust_remote_code: Run code that lies beside the model.
        title: Title of the page; by default the last part of the model's name.

    Raises:
        UserError: Gradio is not installed, there is no such model, or the port is taken.
    """
    gr = gradio()
    demo = Demo.from_pretrained(name_or_path, use_cpu, trust_remote_code)
    page = build_page(demo, title or Path(name_or_path).resolve().name)
    # Fonts of the system: others would be loaded from the network.
    theme = gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    try:
        page.launch(server_port=port, theme=theme, css=style, max_file_size=MOST_UPLOADED)
    except OSError as error:
        raise UserError(f"--port {port}: the page cannot be served ({error}); choose another") from error


def _summary(demo: Demo) -> str:
    """Return what a model answers, as Markdown."""
    lines = []
    for name, kind in demo.tasks.items():
        labels = ", ".join(kind.labels[:MOST_NAMED]) + (", …" if len(kind.labels) > MOST_NAMED else "")
        what = "Predicts a number." if kind.is_regression else f"Labels: {escape_markdown(labels)}."
        lines.append(f"- **{escape_markdown(name)}**: {what}" if name else what)
    return "\n".join(lines)
