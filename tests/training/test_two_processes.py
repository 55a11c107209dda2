"""One launch of two processes on the CPU; see two_process_script.py for what they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from hf_layerfusion import CerbertusForMultitask
from hf_layerfusion.errors import UserError
from hf_layerfusion.training.trainer import LayerFusionTrainer
from tests.gradient_surgery.two_process_script import same_noise_on_every_row
from tests.training.evaluated import CASES as EVALUATIONS
from tests.training.evaluated import check
from tests.training.sharded import HALFWAY, sharded_trainer
from tests.training.small import rows, small_trainer
from tests.training.small_tasks import CLASSES, tasks_trainer
from tests.training.small_texts import texts_trainer
from tests.training.two_process_script import (
    METHODS,
    ROWS,
    SAVED,
    SHARDS,
    STREAMED,
    TASK_MIXINGS,
    WHOLE_BATCH,
    method_rows,
)
from tests.two_processes import finish, start


def numbered_rows() -> list[dict[str, Any]]:
    """Rows whose first two ids are all different."""
    return [
        row
        | {
            "input_ids": [5 + index, 6 + index, *row["input_ids"]],
            "attention_mask": [1, 1, *row["attention_mask"]],
        }
        for index, row in enumerate(rows(ROWS))
    ]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two-processes")
    one = small_trainer(folder / "one", train=rows(ROWS), per_device_train_batch_size=8, **SAVED)
    one.train()
    (folder / "shards").mkdir()
    given = numbered_rows()
    for name, part in {"a": given[:3], "b": given[3:12], "c": given[12:17], "d": given[17:]}.items():
        datasets.Dataset.from_list(part).to_parquet(str(folder / "shards" / f"{name}.parquet"))
    finish(start(Path(__file__).with_name("two_process_script.py"), str(folder)))
    found = [torch.load(folder / f"found-{rank}.pt", weights_only=False) for rank in range(2)]
    return [each | {"folder": folder, "one process": one.model.state_dict()} for each in found]


def test_there_are_two(found: list[dict[str, Any]]) -> None:
    assert [each["world_size"] for each in found] == [2, 2]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_equal_to_one_process_on_the_whole_batch(
    found: list[dict[str, Any]], accumulation: int, tmp_path: Path
) -> None:
    alone = small_trainer(tmp_path, train=rows(ROWS), per_device_train_batch_size=8, **WHOLE_BATCH)
    alone.train()
    losses = [entry["loss"] for entry in alone.state.log_history if "loss" in entry]
    first, second = (each[f"weights-{accumulation}"] for each in found)
    for name, expected in alone.model.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], expected, rtol=0, atol=1e-6)
    assert found[0][f"losses-{accumulation}"] == pytest.approx(losses, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_averages_and_a_teacher_are_those_of_one_process(
    found: list[dict[str, Any]], method: str, tmp_path: Path
) -> None:
    options = WHOLE_BATCH | METHODS[method] | {"per_device_train_batch_size": 8}
    alone = small_trainer(tmp_path, train=method_rows(method), **options)
    alone.train()
    for name, expected in alone.model.state_dict().items():
        assert torch.equal(found[0][method][name], found[1][method][name])
        torch.testing.assert_close(found[0][method][name], expected, rtol=0, atol=1e-6)
    losses = [entry["eval_loss"] for entry in alone.state.log_history if "eval_loss" in entry]
    assert found[0][f"{method}-evaluated"] == pytest.approx(losses, abs=1e-6)


def test_a_resumed_run_of_two_processes_ends_in_the_same_average(found: list[dict[str, Any]]) -> None:
    assert len({digest for each in found for digest in each["ema-digests"]}) == 1


def test_every_example_is_seen_in_every_epoch(found: list[dict[str, Any]]) -> None:
    everything = {tuple(row["input_ids"]) for row in rows(ROWS)}
    assert all(len(each["seen"]) == 9 for each in found)
    for epoch in range(3):
        batches = [batch for each in found for batch in each["seen"][3 * epoch : 3 * epoch + 3]]
        assert {row for batch in batches for row in batch} == everything


def test_a_resumed_run_ends_in_the_same_weights(found: list[dict[str, Any]]) -> None:
    assert [each["resumed_from"] for each in found] == [4, 4]
    assert len({each[run] for each in found for run in ("straight", "resumed")}) == 1


def test_two_processes_go_on_with_the_run_of_one(found: list[dict[str, Any]]) -> None:
    for each in found:
        assert "must have the 8 rows (8 x 1 on 1 processes)" in each["other batch"]
        assert "found 16 rows (8 x 1 on 2 processes)" in each["other batch"]
        for name, expected in each["one process"].items():
            torch.testing.assert_close(each["same batch"][name], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_one_process_goes_on_with_the_run_of_two(
    found: list[dict[str, Any]], accumulation: int, tmp_path: Path
) -> None:
    checkpoint = str(found[0]["folder"] / f"whole-{accumulation}" / "checkpoint-4")
    for rows_of_a_device, micro_batches in ((8, 1), (2, 4)):
        alone = small_trainer(
            tmp_path,
            train=rows(ROWS),
            per_device_train_batch_size=rows_of_a_device,
            gradient_accumulation_steps=micro_batches,
            **WHOLE_BATCH,
        )
        alone.train(resume_from_checkpoint=checkpoint)
        assert alone._initial_global_step == 4
        for name, value in alone.model.state_dict().items():
            torch.testing.assert_close(value, found[0]["one process"][name], rtol=0, atol=1e-6)
    alone = small_trainer(tmp_path, train=rows(ROWS), per_device_train_batch_size=4, **WHOLE_BATCH)
    with pytest.raises(UserError, match=r"must have the 8 rows .* on 2 processes.*, found 4 rows"):
        alone.train(resume_from_checkpoint=checkpoint)


@pytest.mark.parametrize("mixing", TASK_MIXINGS)
def test_several_tasks_equal_one_process_on_the_whole_batch(
    found: list[dict[str, Any]], mixing: str, tmp_path: Path
) -> None:
    alone = tasks_trainer(tmp_path, task_mixing=mixing, per_device_train_batch_size=8, **WHOLE_BATCH)
    alone.train()
    first, second = (each[mixing] for each in found)
    for name, expected in alone.model.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], expected, rtol=0, atol=1e-5)
    expected_log = [entry for entry in alone.state.log_history if "loss" in entry]
    for entry, wanted in zip(found[0][f"{mixing}-log"], expected_log, strict=True):
        losses = {name: value for name, value in wanted.items() if name.startswith("loss")}
        assert len(losses) == (2 if mixing == "shuffled" else 4)
        assert {name: entry[name] for name in losses} == pytest.approx(losses, abs=1e-5)


def test_every_process_has_the_same_task_in_each_step(found: list[dict[str, Any]]) -> None:
    assert found[0]["tasks"] == found[1]["tasks"]
    assert len(found[0]["tasks"]) == 2 * 7
    assert set(found[0]["tasks"]) == set(CLASSES)


def test_a_resumed_run_of_several_tasks_ends_in_the_same_weights(found: list[dict[str, Any]]) -> None:
    assert [each["resumed-tasks-from"] for each in found] == [12, 12]  # in the second epoch
    assert len({each[run] for each in found for run in ("straight-tasks", "resumed-tasks")}) == 1


def test_several_tasks_are_evaluated_whole(found: list[dict[str, Any]]) -> None:
    for each in found:
        assert {task: len(rows) for task, rows in each["predicted"].items()} == dict.fromkeys(CLASSES, 9)
        for task, predictions in each["predicted alone"].items():
            np.testing.assert_allclose(each["predicted"][task], predictions, rtol=0, atol=1e-5)
        mean = sum(
            each["evaluated"][f"eval_{name}"] for name in ("five_accuracy", "para_accuracy", "sim_closeness")
        )
        assert each["evaluated"]["eval_mean"] == pytest.approx(mean / 3)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_each_row_has_its_answer(found: list[dict[str, Any]], name: str) -> None:
    for each in found:
        check(each["evaluations"][name], name)


def test_both_skip_a_step_that_diverged_on_one(found: list[dict[str, Any]]) -> None:
    assert [each["skipped"] for each in found] == [1, 1]
    assert found[0]["skipping"] == found[1]["skipping"]
    for each in found:
        assert each["stopped"].startswith("training loss is not finite at step 2 ")


def test_both_train_on_the_states_that_each_read_a_part_of(found: list[dict[str, Any]]) -> None:
    assert [each["shards"] for each in found] == [2, 2]
    for name, expected in found[0]["frozen"].items():
        assert torch.equal(found[0]["cached"][name], found[1]["cached"][name])
        torch.testing.assert_close(found[0]["cached"][name], expected, rtol=0, atol=1e-6)


def test_streamed_texts_equal_one_process_on_the_whole_batch(
    found: list[dict[str, Any]], tmp_path: Path
) -> None:
    """21 texts by 8: of the last batch one process has 4, the other 1; masks are drawn row by row."""
    alone = texts_trainer(tmp_path, per_device_train_batch_size=8, **STREAMED)
    alone.train()
    for name, expected in alone.model.state_dict().items():
        assert torch.equal(found[0]["texts"][name], found[1]["texts"][name])
        torch.testing.assert_close(found[0]["texts"][name], expected, rtol=0, atol=1e-6)
    losses = [each["texts-evaluated"] for each in found]
    assert losses == pytest.approx([alone.evaluate()["eval_loss"]] * 2, abs=1e-5)


def test_a_resumed_run_on_streamed_texts_ends_in_the_same_weights(found: list[dict[str, Any]]) -> None:
    assert [each["resumed-texts-from"] for each in found] == [4, 4]  # in the second epoch of 3 steps
    assert len({each[run] for each in found for run in ("straight-texts", "resumed-texts")}) == 1


def test_shards_are_read_without_loss_or_repeats(found: list[dict[str, Any]], tmp_path: Path) -> None:
    """21 rows in 4 files, two processes, two micro-batches: a pass, and two steps of the next one."""
    given = numbered_rows()
    starts = [tuple(row["input_ids"][:2]) for row in given]
    seen = [row for each in found for row in each["rows of shards"]]
    assert sorted(seen) == sorted(starts + starts[:16])
    alone = small_trainer(
        tmp_path,
        train=given,
        per_device_train_batch_size=8,
        train_sampling_strategy="sequential",
        **SHARDS,
    )
    alone.train()
    loss = alone.evaluate(given)["eval_loss"]
    for each in found:
        assert each["shards-loss"] == pytest.approx(loss, abs=1e-5)
        for name, expected in alone.model.state_dict().items():
            torch.testing.assert_close(each["shards-weights"][name], expected, rtol=0, atol=1e-6)
        assert "dataloader_num_workers=2 shares a stream out among processes" in each["shards-refused"]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> LayerFusionTrainer:
    """The run of `sharded` on one process, which does not shard."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn_like", torch.randn_like)
        same_noise_on_every_row()
        trainer = sharded_trainer(tmp_path_factory.mktemp("whole"), rows=8)
        trainer.train()
    return trainer


def test_a_sharded_run_equals_one_process(found: list[dict[str, Any]], whole_run: LayerFusionTrainer) -> None:
    """PCGrad, SMART, clipping, averages of weights and the best checkpoint, with gradients in shards."""
    total = sum(parameter.numel() for parameter in whole_run.model.parameters())
    assert all(each["is-sharded"] for each in found)
    assert sum(each["shard-sizes"] for each in found) == total
    expected = whole_run.model.state_dict()
    for run in ("sharded", "sharded-resumed"):
        for name, value in expected.items():
            torch.testing.assert_close(found[0][run][name], value, rtol=0, atol=1e-5)
            assert torch.equal(found[0][run][name], found[1][run][name])
    log = whole_run.state.log_history
    assert any(value > 0 for entry in log for name, value in entry.items() if name.startswith("conflict"))
    for entry, wanted in zip(found[0]["sharded-log"], log, strict=True):
        for name, value in wanted.items():
            if name.startswith(("loss", "grad_norm", "cosine", "conflict")) or name.endswith(
                ("_loss", "_score")
            ):
                assert entry[name] == pytest.approx(value, abs=1e-4), name


def test_a_sharded_run_saves_models_like_any_other(
    found: list[dict[str, Any]], whole_run: LayerFusionTrainer
) -> None:
    folder, alone = found[0]["folder"], Path(str(whole_run.args.output_dir))
    for name, other in {
        "sharded-saved": None,
        f"sharded/{HALFWAY}": HALFWAY,
        "sharded/best-mood": "best-mood",
    }.items():
        model = CerbertusForMultitask.from_pretrained(folder / name)
        expected = (
            whole_run.model if other is None else CerbertusForMultitask.from_pretrained(alone / other)
        ).state_dict()
        for weight, value in model.state_dict().items():
            torch.testing.assert_close(value, expected[weight], rtol=0, atol=1e-5)
        if other is not None:
            assert (folder / name / "config.json").read_text() == (alone / other / "config.json").read_text()
    names = {path.name for path in (folder / "sharded-saved").iterdir()}
    assert {path.name for path in (alone / "best-mood").iterdir()} - {"best.json"} == names


def test_a_sharded_checkpoint_is_resumed_as_it_was_saved(
    found: list[dict[str, Any]], whole_run: LayerFusionTrainer
) -> None:
    checkpoint = str(found[0]["folder"] / "sharded" / HALFWAY)
    with pytest.raises(UserError, match="was saved with FSDP, found no FSDP; resume as it was saved"):
        whole_run.train(resume_from_checkpoint=checkpoint)
