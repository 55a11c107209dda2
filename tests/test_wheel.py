"""The wheel: built, installed into an environment of its own, and used from another folder."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.tiny import read_csv

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.wheel

USE = """
import importlib.resources, sys
from pathlib import Path

import hf_layerfusion
from transformers import AutoModelForSequenceClassification, pipeline

home = Path(sys.prefix).resolve()
assert home in Path(hf_layerfusion.__file__).resolve().parents, hf_layerfusion.__file__
package = importlib.resources.files("hf_layerfusion")
assert package.joinpath("py.typed").is_file()
templates = ("hub/card_template.md", "recipes/report/report_template.html", "app/answer_template.html", "app/style.css")
for name in templates:
    assert package.joinpath(name).read_text(encoding="utf-8").strip()

encoder, folder = sys.argv[1:]
made = hf_layerfusion.BertForGRUFusionClassification.from_pretrained(encoder, num_groups=2)
made.save_pretrained(folder)
loaded = AutoModelForSequenceClassification.from_pretrained(folder)
assert type(loaded) is hf_layerfusion.BertForGRUFusionClassification
weights = loaded.state_dict()
assert all((weights[name] == value).all() for name, value in made.state_dict().items())
print(pipeline("text-classification", model=folder, tokenizer=encoder)("a good day")[0]["label"])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # In a copy: what an earlier build left in the checkout would get into the wheel.
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("setup.cfg", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)],
        check=True,  # with the pinned setuptools at hand, nothing is downloaded
    )
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        licences = [name for name in archive.namelist() if name.endswith("LICENSE")]
    expected = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "hf_layerfusion").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert set(names) == expected
    assert licences


def test_the_command_is_declared(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (declared,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "hf-layerfusion = hf_layerfusion.__main__:main" in archive.read(declared).decode()


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of an environment that holds the wheel."""
    home = tmp_path_factory.mktemp("wheel") / "environment"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        str(wheel),
    ]
    subprocess.run(install, check=True)
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # The dependencies are those of this environment; the wheel comes first should ours be among them.
    Path(site, "dependencies.pth").write_text("\n".join(path for path in sys.path if "-packages" in path))
    return python.parent


def outside(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder that knows nothing of this checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_the_installed_package_works(programs: Path, tiny_encoder_dir: str, tmp_path: Path) -> None:
    result = outside(programs / "python", "-c", USE, tiny_encoder_dir, tmp_path / "saved", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("LABEL_")


def test_the_installed_command_trains_and_predicts_on_the_sample(
    programs: Path, tiny_encoder_dir: str, tmp_path: Path
) -> None:
    command, sample = programs / "hf-layerfusion", tmp_path / "sample"

    def run(*arguments: str, folder: Path = sample) -> None:
        result = outside(command, *arguments, folder=folder)
        assert result.returncode == 0, result.stderr

    run("sample", "sample", folder=tmp_path)
    run("train", "--config", "sample.yaml", "--model_name_or_path", tiny_encoder_dir, "--use_cpu")
    run("predict", "outputs/sample", "test.csv", "--output_dir", "answers", "--use_cpu")
    (of_run,) = (sample / "outputs" / "sample").rglob("predictions.csv")
    (of_answers,) = (sample / "answers").rglob("predictions.csv")
    found, expected = read_csv(of_answers), read_csv(of_run)
    assert len(expected) == 50
    assert [(row["text"], row["label"]) for row in found] == [(row["text"], row["label"]) for row in expected]
