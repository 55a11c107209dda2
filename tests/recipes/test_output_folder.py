"""Tests of the run's folder: atomic outputs, one run at a time, and one line for every obstacle."""

from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.run_folder import open_run, run_once
from hf_layerfusion.run_layout import RESULTS_FILE
from hf_layerfusion.storage import write_json


class Small:
    """An experiment that trains nothing, and is interrupted before its card as often as told."""

    settings: ClassVar[dict[str, int]] = {"seed": 1}
    outputs = ("README.md",)

    def __init__(self, cuts: int = 0) -> None:
        self.cuts, self.written = cuts, 0

    def make_trainer(self, arguments):
        return SimpleNamespace(accelerator=SimpleNamespace(wait_for_everyone=lambda: None))

    def train(self, trainer):
        return {"accuracy": 0.5}

    def write(self, trainer, result, folder: Path):
        (folder / "run").mkdir()
        write_json(folder / "run" / RESULTS_FILE, result)
        if self.written < self.cuts:
            self.written += 1
            raise KeyboardInterrupt
        (folder / "README.md").write_text("card")


def arguments(folder: Path, **changes):
    given = {
        "output_dir": str(folder),
        "resume_from_checkpoint": None,
        "push_to_hub": False,
        "process_index": 0,
    }
    return SimpleNamespace(**{**given, **changes})


def run(experiment: Small, given) -> dict:
    with open_run(given, experiment.settings):
        return run_once(experiment, given, Path(given.output_dir))


def test_a_refused_run_leaves_no_empty_folders(tmp_path):
    (tmp_path / "mine").mkdir()
    for folder in (tmp_path / "outputs" / "june" / "run", tmp_path / "mine" / "run"):
        with pytest.raises(UserError, match="refused"), open_run(arguments(folder), Small.settings):
            raise UserError("refused")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]  # which was there
    assert not list((tmp_path / "mine").iterdir())
    run(Small(), arguments(tmp_path / "outputs" / "run"))
    assert (tmp_path / "outputs" / "run" / "README.md").exists()


def test_a_run_that_is_cut_off_before_its_card_is_not_taken_for_finished(tmp_path):
    folder, experiment = tmp_path / "run", Small(cuts=1)
    with pytest.raises(KeyboardInterrupt):
        run(experiment, arguments(folder))
    assert not (folder / "run" / RESULTS_FILE).exists()
    assert run(experiment, arguments(folder, resume_from_checkpoint="True")) == {"accuracy": 0.5}
    assert (folder / "README.md").read_text() == "card"


def test_a_finished_run_that_has_lost_its_card_writes_it_again(tmp_path):
    folder = tmp_path / "run"
    run(Small(), arguments(folder))
    (folder / "README.md").unlink()
    run(Small(), arguments(folder, resume_from_checkpoint="True"))
    assert (folder / "README.md").exists()


def test_a_second_run_into_a_folder_in_use_ends_with_one_line(tmp_path):
    folder = tmp_path / "run"
    with (
        open_run(arguments(folder), Small.settings),
        pytest.raises(UserError, match=r"--output_dir .*run: is in use by process \d+; wait"),
        open_run(arguments(folder), Small.settings),
    ):
        pass
    assert not folder.exists()  # nothing was written into it


@pytest.mark.parametrize("name", [".run.json.partial", ".0123456789ab.partial", ".lock"])
def test_what_a_killed_run_left_half_written_does_not_block_the_folder(tmp_path, name):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).write_text("{")
    assert run(Small(), arguments(folder)) == {"accuracy": 0.5}
    assert not list(folder.glob(".*.partial"))


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000], ids=len)
@pytest.mark.parametrize("name", ["run.json", RESULTS_FILE])
def test_damaged_files_of_a_run_are_one_line(tmp_path, name, content):
    folder = tmp_path / "run"
    run(Small(), arguments(folder))
    (folder / "run" / name).write_text(content)
    with pytest.raises(UserError) as caught:
        run(Small(), arguments(folder, resume_from_checkpoint="True"))
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["file/run", "n" * 300, "file"])
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^--output_dir ") as caught:
        run(Small(), arguments(tmp_path / place))
    assert "\n" not in str(caught.value)
