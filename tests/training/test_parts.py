"""The objects that the Trainer wires together, each without a Trainer."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerControl, TrainerState

from hf_layerfusion.errors import StorageError, UserError
from hf_layerfusion.training.best_checkpoint import BestOfEachTask
from hf_layerfusion.training.checkpoints import CheckpointSaver, check_fits, verify_checkpoint
from hf_layerfusion.training.divergence import DivergenceGuard, SkippedSteps
from hf_layerfusion.training.gradient_combination import GradientSurgery
from hf_layerfusion.training.log_aggregation import LogSource, TrainingLog
from hf_layerfusion.training.loss_weighting import SHARES, LossWeighting, weigh_losses, without_repeats
from hf_layerfusion.training.tasks import Tasks
from tests.tiny import tiny_tokenizer
from tests.training.small import small_arguments, small_model
from tests.training.small_tasks import task_rows


class Alone:
    """The part of accelerate's Accelerator that is needed, on one process."""

    scaler = None
    sync_gradients = True
    device = torch.device("cpu")

    def gather(self, tensor: Any) -> Any:
        return tensor

    def reduce(self, tensor: Any, reduction: str = "sum") -> Any:
        return tensor

    def unwrap_model(self, model: Any) -> Any:
        return model

    def no_sync(self, model: Any) -> Any:
        return torch.enable_grad()

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()


class Sums:
    """The stock Trainer's sums."""

    def __init__(self) -> None:
        self.since_log, self.total = torch.tensor(1.0), 0.0

    def state(self) -> dict[str, Any]:
        return {"loss": self.since_log.item()}


def test_shares_of_a_step_add_up_to_1(tmp_path: Path) -> None:
    labels = ([0, 1, -100], [1, -100, -100], [-100, -100, -100])
    batches: list[Any] = [{"labels": torch.tensor(each)} for each in labels]
    LossWeighting(small_arguments(tmp_path), ["labels"]).weigh(batches, Alone(), torch.device("cpu"))
    shares = [batch[SHARES][""] for batch in batches]
    assert [share.item() for share in shares] == pytest.approx([2 / 3, 1 / 3, 0])
    nothing = weigh_losses({"": torch.tensor(math.nan)}, {"": shares[2]})
    assert nothing[""].item() == 0


def test_repeated_rows_are_cut_off_and_a_process_without_others_counts_none() -> None:
    batch = {"labels": torch.arange(4)}
    kept = [without_repeats(batch, 10, 4, process, 2) for process in (0, 1)]  # the last round has 2 rows
    assert [len(each["labels"]) for each in kept] == [2, 1]
    assert [each["repeated"] for each in kept] == [False, True]


def guard(folder: Path, log: TrainingLog, **changes: Any) -> tuple[DivergenceGuard, SkippedSteps]:
    counter = SkippedSteps()
    args = small_arguments(folder, **changes)
    return DivergenceGuard(args, Alone, lambda: counter, log.snapshot, lambda: ["sim"]), counter


def step(made: DivergenceGuard, loss: float, norm: float, model: nn.Module) -> Any:
    """What the Trainer does in a step; the optimizer, as accelerate wraps it."""
    optimizer = SimpleNamespace(_is_overflow=None)
    made.begin_step()
    made.observe(torch.tensor(loss))
    made.grad_norm = norm
    for event in (made.on_pre_optimizer_step, made.on_optimizer_step):
        event(made.args, TrainerState(), TrainerControl(), model=model, optimizer=optimizer)
    return optimizer


def test_a_guard_skips_what_is_not_finite_and_takes_its_loss_back(tmp_path: Path) -> None:
    class Counts(LogSource):
        value = 0

        def snapshot(self) -> Any:
            before = self.value
            return lambda: setattr(self, "value", before)

    sums, counts, model = Sums(), Counts(), nn.Linear(1, 1)
    log = TrainingLog(sums)  # type: ignore[arg-type]
    log.sources = [counts]
    made, counter = guard(tmp_path, log, on_divergence="skip")
    model(torch.ones(1)).backward()
    assert step(made, 1.0, 1.0, model)._is_overflow is False
    assert model.weight.grad is not None
    made.begin_step()
    sums.since_log += math.nan
    counts.value = 5
    made.observe(torch.tensor(math.nan))
    optimizer = SimpleNamespace(_is_overflow=None)
    made.on_pre_optimizer_step(made.args, TrainerState(), TrainerControl(), model=model, optimizer=optimizer)
    assert (sums.since_log.item(), counts.value, model.weight.grad) == (1.0, 0, None)
    assert counter.total == 1
    logs = {"loss": 2.0}
    made.add_to(logs, is_step=True)
    assert logs == {"loss": 4.0, "skipped_steps": 1}


@pytest.mark.parametrize(
    ("loss", "norm", "what"), [(math.inf, 1.0, "training loss"), (1.0, math.nan, "gradient")]
)
def test_a_guard_stops_and_names_task_and_step(tmp_path: Path, loss: float, norm: float, what: str) -> None:
    made, _ = guard(tmp_path, TrainingLog(Sums()))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"{what} of sim is not finite at step 1 "):
        step(made, loss, norm, nn.Linear(1, 1))


def test_surgery_leaves_the_combined_gradient(tmp_path: Path) -> None:
    model = nn.Linear(2, 1, bias=False)
    directions = {"a": torch.tensor([[1.0, 0.0]]), "b": torch.tensor([[-1.0, 1.0]])}

    def losses(model: nn.Module, one: Any) -> dict[str, torch.Tensor]:
        return {one["task"]: (model.weight * directions[one["task"]]).sum() * one[SHARES][one["task"]]}

    surgery = GradientSurgery("pcgrad", 0, losses)
    batch = {"tasks": {"a": {}, "b": {}}, SHARES: {"a": 1.0, "b": 1.0}}
    total = surgery.backward(model, batch, Alone(), 0)
    # a minus its part along b, plus b minus its part along a.
    torch.testing.assert_close(model.weight.grad, torch.tensor([[0.5, 1.5]]))
    assert not total.requires_grad
    logs: dict[str, float] = {}
    surgery.add_to(logs, is_step=True)
    assert logs["conflict"] == 1


def test_a_checkpoint_is_whole_or_gone(tmp_path: Path) -> None:
    args = small_arguments(tmp_path, save_total_limit=1)
    saver = CheckpointSaver(args, lambda: None)
    with saver.saving(tmp_path / "checkpoint-1"):
        assert args.save_total_limit is None
        small_model().save_pretrained(tmp_path / "checkpoint-1")
        saver.save_arguments(tmp_path / "checkpoint-1")
    verify_checkpoint(tmp_path / "checkpoint-1")
    assert (
        torch.load(tmp_path / "checkpoint-1" / "training_args.bin", weights_only=False).save_total_limit == 1
    )

    def run_out_of_space() -> None:
        with saver.saving(tmp_path / "checkpoint-2"):
            (tmp_path / "checkpoint-2" / "model.safetensors").write_bytes(b"half")
            raise OSError("no space")

    with pytest.raises(StorageError, match="checkpoint-2 could not be written: no space"):
        run_out_of_space()
    assert not (tmp_path / "checkpoint-2").exists() and args.save_total_limit == 1
    saver.rotate(tmp_path, None)
    assert (tmp_path / "checkpoint-1").exists()
    check_fits(small_model(), tmp_path / "checkpoint-1")
    with pytest.raises(UserError, match=r"0 weights are missing, .* and 2 not expected"):
        check_fits(without_head(), tmp_path / "checkpoint-1")


def without_head() -> nn.Module:
    model = small_model()
    model.classifier = nn.Identity()
    return model


def test_tasks_weigh_log_and_choose(tmp_path: Path) -> None:
    args = small_arguments(
        tmp_path, task_weights={"sim": 0.5}, task_loss="mean", task_metrics={"sim": "pearsonr"}
    )
    data = {task: task_rows(task, 4) for task in ("five", "sim")}
    tasks = Tasks(args, None, data, data, None, None, tiny_tokenizer())
    tasks.bind(Alone)  # type: ignore[arg-type]
    tasks.begin_step([{"tasks": {"five": {}, "sim": {}}}], "input_ids")
    tasks.add_losses({"five": torch.tensor(2.0), "sim": torch.tensor(4.0)})
    assert tasks.weigh({"five": 2.0, "sim": 4.0}) == {"five": 1.0, "sim": 1.0}
    logs: dict[str, float] = {}
    tasks.add_to(logs, is_step=True)
    assert logs == {"loss_five": 2.0, "loss_sim": 4.0}
    found = {
        "five": {"eval_five_loss": 1.0, "eval_five_accuracy": 0.5},
        "sim": {"eval_sim_loss": 2.0, "eval_sim_spearmanr": 0.1, "eval_sim_pearsonr": 0.9},
    }
    assert tasks.over_tasks(found, "eval") == {"eval_loss": 1.0, "eval_mean": 0.7}
    assert tasks.main_metrics == {"five": "eval_five_accuracy", "sim": "eval_sim_pearsonr"}


def test_the_best_of_a_task_is_saved_when_it_is_better_than_before(tmp_path: Path) -> None:
    saved: list[str] = []

    def save(folder: str) -> None:
        saved.append(folder)
        Path(folder).mkdir()

    best = BestOfEachTask(
        lambda: {"sim": "eval_sim_mean"}, save, lambda: None, lambda: tmp_path, lambda: True
    )
    state = TrainerState()
    for value in (0.1, 0.3, 0.2):
        state.log_history.append({"eval_sim_mean": value})
        best.on_evaluate(small_arguments(tmp_path), state, TrainerControl())
    assert len(saved) == 2
    assert '"value": 0.3' in (tmp_path / "best-sim" / "best.json").read_text()
