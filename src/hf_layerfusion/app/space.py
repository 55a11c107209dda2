"""The folder of a Space of the Hub that shows the demo of a model."""

import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from huggingface_hub import SpaceCardData

import hf_layerfusion
from hf_layerfusion.app.predictors import is_ensemble, open_predictor
from hf_layerfusion.errors import UserError
from hf_layerfusion.hub.markdown import escape_markdown, single_line
from hf_layerfusion.hub.portable import LOCAL, portable
from hf_layerfusion.hub.publish import NEVER_PUSHED, files_to_push
from hf_layerfusion.recipes.model_setup import check_trained_folder
from hf_layerfusion.storage import new_folder, read_object

GRADIO = "6.31.0"
"""Version of Gradio that a Space runs if none is installed here."""
PYTHON = "3.11"
MODEL = "model"
ENCODER = "base_model_name_or_path"
OTHER_MODELS = ("best-*", "seed-*", "fold-*")
"""Models beside that of a run, which its demo does not show."""

APP = '''"""The demo of a model, as `hf-layerfusion app MODEL --space FOLDER` wrote it."""

from pathlib import Path

from hf_layerfusion.app.page import launch

if __name__ == "__main__":
    launch({model}, title={title!r})
'''


def write_space(name_or_path: str, folder: Path) -> None:
    """Write the folder of a Space: `README.md` with its metadata, `app.py`, `requirements.txt`, this package, and a
    local model.

    The package is copied, so that the Space runs the version that trained the model, whether or not an index has it.

    Args:
        name_or_path: Hub id of a trained model, which the Space loads from there, or a folder, whose files are copied
            as they would be pushed.
        folder: A new or empty folder.

    Raises:
        UserError: The folder is not empty, or a local model cannot be opened, is an ensemble without its members or an
            adapter of an encoder in a local folder.
    """
    source = Path(name_or_path)
    is_local = source.is_dir()
    if not is_ensemble(name_or_path):
        check_trained_folder(f"MODEL {name_or_path}", source)
    elif is_local and not (source / "members").is_dir():
        raise UserError(
            f"MODEL {name_or_path}: must carry its members, found an ensemble that names them; write it again with "
            "--carry_members True"
        )
    with new_folder(folder, "--space") as partial:
        if is_local:
            files = files_to_push(source, (*NEVER_PUSHED, *OTHER_MODELS))
            with portable(source, files) as place:
                for name in files:
                    target = partial / MODEL / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(place / name, target)
            _check_adapter(name_or_path, partial / MODEL)
            open_predictor(name_or_path, use_cpu=True)  # what cannot be opened here cannot be in the Space
        title = single_line(source.resolve().name if is_local else source.name)
        package = Path(hf_layerfusion.__file__).parent
        shutil.copytree(package, partial / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        model = f'str(Path(__file__).resolve().parent / "{MODEL}")' if is_local else repr(name_or_path)
        (partial / "app.py").write_text(APP.format(model=model, title=title), encoding="utf-8")
        (partial / "requirements.txt").write_text("\n".join(requirements()) + "\n", encoding="utf-8")
        (partial / "README.md").write_text(_card(name_or_path, title, is_local), encoding="utf-8")


def _check_adapter(name_or_path: str, copied: Path) -> None:
    """Check that the encoder of an adapter can be had where the Space runs.

    Raises:
        UserError: It is a folder of this machine.
    """
    path = copied / "adapter_config.json"
    encoder = str(read_object(path, "save it again").get(ENCODER)) if path.is_file() else ""
    if encoder.startswith(LOCAL) or Path(encoder).is_absolute() or (encoder and Path(encoder).is_dir()):
        raise UserError(
            f"MODEL {name_or_path}: its adapter is for the encoder in the folder {encoder.removeprefix(LOCAL)}, which "
            "a Space does not have; train it on the encoder's Hub id, or save the model with the adapter merged"
        )


def requirements() -> list[str]:
    """Return what the package requires, without extras: Spaces of Gradio have Gradio."""
    return [line for line in requires("hf_layerfusion") or () if "extra" not in line.partition(";")[2]]


def _card(name_or_path: str, title: str, is_local: bool) -> str:
    try:
        of_gradio = version("gradio")
    except PackageNotFoundError:
        of_gradio = GRADIO
    data = SpaceCardData(
        title=title,
        emoji="🧅",
        colorFrom="blue",
        colorTo="gray",
        sdk="gradio",
        sdk_version=of_gradio,
        python_version=PYTHON,
        app_file="app.py",
        pinned=False,
        models=None if is_local else [name_or_path],
        tags=["hf_layerfusion"],
    )
    return (
        f"---\n{data.to_yaml()}\n---\n\n# {escape_markdown(title)}\n\nA demo of this model, which was trained with the "
        "Python package hf_layerfusion: type a text, or upload a file of texts.\n"
    )
