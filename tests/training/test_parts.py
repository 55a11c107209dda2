"""The objects that the Trainer wires together, each without a Trainer."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from transformers import DataCollatorWithPadding, TrainerControl, TrainerState

from hf_layerfusion.errors import StorageError, UserError
from hf_layerfusion.hub.publish import PushError
from hf_layerfusion.regularizers.registry import make_regularizers
from hf_layerfusion.regularizers.task_outputs import task_losses
from hf_layerfusion.training.best_checkpoint import BestOfEachTask
from hf_layerfusion.training.checkpoints import CheckpointSaver, check_fits, verify_checkpoint
from hf_layerfusion.training.divergence import DivergenceGuard, SkippedSteps
from hf_layerfusion.training.gradient_combination import GradientSurgery
from hf_layerfusion.training.hp_search import SearchTrial
from hf_layerfusion.training.hub_push import HubPush
from hf_layerfusion.training.log_aggregation import LogSource, TrainingLog
from hf_layerfusion.training.loss_terms import LossTerms
from hf_layerfusion.training.loss_weighting import SHARES, LossWeighting, weigh_losses, without_repeats
from hf_layerfusion.training.resumed_log import ResumedLog
from hf_layerfusion.training.sharded_evaluation import ShardedEvaluation
from hf_layerfusion.training.tasks import Tasks
from tests.tiny import tiny_tokenizer
from tests.training.small import rows, small_arguments, small_model
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


def test_a_resumed_log_ends_the_epoch_of_its_checkpoint_once(tmp_path: Path) -> None:
    log, ended, loaded = TrainingLog(Sums()), [], []  # type: ignore[arg-type]
    log.load = lambda checkpoint: {"epoch_is_over": False}  # type: ignore[method-assign]
    resumed = ResumedLog(log, loaded.append, lambda: ended.append(True))
    args = small_arguments(tmp_path, gradient_accumulation_steps=2)

    def begin(step: int, max_steps: int) -> TrainerControl:
        ended.clear()
        control, state = TrainerControl(), TrainerState(global_step=step, max_steps=max_steps)
        resumed.begin(str(tmp_path))
        resumed.on_train_begin(args, state, control, train_dataloader=[None] * 5)  # three steps an epoch
        for _ in range(2):
            resumed.finish_epoch(state, control)
        return control

    assert not begin(2, 9).should_training_stop and not ended  # within the epoch
    assert not begin(3, 9).should_training_stop and ended == [True]  # at its end
    assert begin(4, 4).should_training_stop and ended == [True]  # at the end of all, within an epoch
    assert loaded == [tmp_path] * 3


def test_rows_of_two_processes_count_once() -> None:
    """The second round of two processes by 2 holds 3 rows: 2 and 1, the fourth a repeat of the first."""
    values, passes = torch.arange(7.0), []
    for process in (0, 1):
        accelerator = SimpleNamespace(gradient_state=SimpleNamespace(end_of_dataloader=False))
        sampler = BatchSampler(SequentialSampler(values), 2, False)
        loader = DataLoader(values, batch_sampler=BatchSamplerShard(sampler, 2, process))
        evaluation = ShardedEvaluation(loader, accelerator, ["labels"])  # type: ignore[arg-type]
        passes.append((evaluation, accelerator, iter(evaluation)))
    found: list[float] = []
    for last in (False, True):
        for _, accelerator, _ in passes:
            accelerator.gradient_state.end_of_dataloader = last
        of_processes = [next(iterator) for _, _, iterator in passes]
        filled = [torch.cat([each, each[-1:]])[:2] if len(each) < 2 else each for each in of_processes]
        for evaluation, accelerator, _ in passes[:1]:
            accelerator.gather = lambda _: torch.cat(filled)  # noqa: B023
            found += evaluation.gather(of_processes[0], lambda _: torch.cat(filled)).tolist()  # noqa: B023
    assert found == list(range(7))


def test_a_trial_keeps_the_folder_of_the_best(tmp_path: Path) -> None:
    class Trial:
        study, params = SimpleNamespace(direction=SimpleNamespace(name="MAXIMIZE")), {"learning_rate": 1e-3}

        def __init__(self, number: int) -> None:
            self.number, self.user_attrs, self.reported = number, {}, []

        def set_user_attr(self, name: str, value: Any) -> None:
            self.user_attrs[name] = value

        def report(self, value: float, step: int) -> None:
            self.reported.append((value, step))

    first, second = (SearchTrial(Trial(number), small_arguments(tmp_path)) for number in (0, 1))
    for each in (first, second):
        each.make_folder(str(tmp_path / "same"))
    assert (first.folder, second.folder) == ("same", "same-2")
    first.trial.value, Trial.study.best_trial = 0.5, first.trial
    objective = second.recorded(lambda metrics: metrics["eval_loss"], lambda: 40)
    with second.reporting():
        second.trial.report(objective({"eval_loss": 0.7}), 40)
    assert second.trial.reported == [(0.7, 1)] and second.objectives == {40: 0.7}
    assert not second.is_kept(math.nan) and second.is_kept(0.7)
    assert [path.name for path in tmp_path.iterdir()] == ["same-2"]


def test_a_save_that_did_not_arrive_is_pushed_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: list[str] = []

    def push(folder: Any, repository: str, **options: Any) -> None:
        if not pushed:
            pushed.append("failed")
            raise PushError("no network")
        pushed.append(f"{Path(folder).name} to {repository}")

    monkeypatch.setattr("hf_layerfusion.training.hub_push.push_folder", push)
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    hub = HubPush(small_arguments(tmp_path, push_to_hub=True), lambda: "me/model")
    jobs = hub.push_checkpoint(checkpoint, 1, 1.0, None, lambda: None)
    assert jobs is not None and isinstance(jobs.jobs[0].exception(), PushError)
    hub.finish()
    assert pushed == ["failed", "_push-checkpoint-1 to me/model"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_terms_are_logged_saved_and_taken_back(tmp_path: Path) -> None:
    terms = LossTerms({"rdrop": make_regularizers({"rdrop": {}})["rdrop"]})
    model = small_model(0.1).train()
    batch = dict(DataCollatorWithPadding(tiny_tokenizer())(rows(4)))
    losses, _ = terms.losses(model, batch, 0, task_losses)
    assert losses[""] > 0
    rollback = terms.snapshot()
    terms.losses(model, batch, 1, task_losses)
    rollback()
    state, logs = terms.log_state(), {}
    assert all(len(values) == 1 for values in state["terms"].values())
    again = LossTerms(terms.regularizers)
    again.load_log_state(state)
    again.add_to(logs, is_step=True)
    assert logs == pytest.approx({name: values[0] for name, values in state["terms"].items()})
