"""Tests of the layout of a run's folder, that of earlier versions included."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_layerfusion.run_layout import find, find_in_parts, owner, records, run_of


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    return path


def test_records_are_found_in_their_folder_and_then_at_the_top(tmp_path: Path) -> None:
    assert find(tmp_path, "run.json") == records(tmp_path) / "run.json" == tmp_path / "run" / "run.json"
    earlier = write(tmp_path / "run.json")
    assert find(str(tmp_path), "run.json") == earlier
    now = write(records(tmp_path) / "run.json")
    assert find(tmp_path, "run.json") == now


def test_parts_may_be_of_either_layout(tmp_path: Path) -> None:
    write(tmp_path / "fold-1" / "logits.csv")
    write(tmp_path / "fold-2" / "run" / "logits.csv")
    (tmp_path / "fold-3").mkdir()
    found = find_in_parts(tmp_path, "fold-*", "logits.csv")
    assert [(place.name, path.parent.name) for place, path in found.items()] == [
        ("fold-1", "fold-1"),
        ("fold-2", "run"),
    ]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("a/model", ["model"]),
        ("a/seed-1", ["seed-1", "a"]),
        ("a/seed-1/checkpoint-4", ["checkpoint-4", "seed-1", "a"]),
        ("a/best-mood", ["best-mood", "a"]),
    ],
)
def test_a_model_has_the_records_of_the_run_that_it_is_part_of(
    model: str, expected: list[str], tmp_path: Path
) -> None:
    assert [folder.name for folder in run_of(tmp_path / model)] == expected


def test_the_owner_of_a_record_is_the_folder_of_the_run(tmp_path: Path) -> None:
    assert owner(tmp_path / "a" / "run" / "layer_use.json") == tmp_path / "a"
    assert owner(tmp_path / "a" / "layer_use.json") == tmp_path / "a"
    write(tmp_path / "run" / "config.json")  # a run of an earlier version that is called `run`
    assert owner(tmp_path / "run" / "layer_use.json") == tmp_path / "run"
