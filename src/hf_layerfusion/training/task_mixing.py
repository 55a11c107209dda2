"""Task mixing: the tasks of each optimizer step of an epoch.

Everything here counts in optimizer steps: the batch of a step is the one that all processes and all accumulated
micro-batches make up together, so that the order of the tasks does not depend on how it is divided.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch

Step = tuple[str, ...]
"""The tasks of one optimizer step."""


@dataclass(frozen=True)
class TaskMixing(ABC):
    """Draws the tasks of an epoch's steps. A new one is a class and a row in `TASK_MIXINGS`.

    Attributes:
        num_rows: training rows of each task.
        num_batches: batches that hold each row of a task once, for each task.
        num_epochs: epochs of the whole run.
        temperature: see `Temperature`.
    """

    num_rows: Mapping[str, int]
    num_batches: Mapping[str, int]
    num_epochs: int = 1
    temperature: float = 1.0

    def __len__(self) -> int:
        """Return the number of optimizer steps in each epoch: one for each batch, unless a subclass says otherwise."""
        return sum(self.num_batches.values())

    @abstractmethod
    def steps(self, epoch: int, generator: torch.Generator) -> list[Step]:
        """Return the tasks of each of the `len(self)` steps of epoch `epoch`, counted from 0.

        A task takes its next batch each time it stands there, and starts over in a new order after its last.
        """


class Shuffled(TaskMixing):
    """Every batch of every task once an epoch, in random order (SerBERTus, section 3; MT-DNN, algorithm 1)."""

    def steps(self, epoch: int, generator: torch.Generator) -> list[Step]:
        """Return the batches of all tasks in random order."""
        steps: list[Step] = [(task,) for task, count in self.num_batches.items() for _ in range(count)]
        return [steps[index] for index in torch.randperm(len(steps), generator=generator).tolist()]


class RoundRobin(TaskMixing):
    """The tasks in turn, until the shortest has had its last batch."""

    @property
    def rounds(self) -> int:
        """The number of turns of each task."""
        return min(self.num_batches.values())

    def __len__(self) -> int:
        return self.rounds * len(self.num_batches)

    def steps(self, epoch: int, generator: torch.Generator) -> list[Step]:
        """Return the tasks in turn, `rounds` times."""
        turn: list[Step] = [(task,) for task in self.num_batches]
        return turn * self.rounds


class RoundRobinLongest(RoundRobin):
    """The tasks in turn, until the longest has had its last batch; the others start over."""

    @property
    def rounds(self) -> int:
        """The number of turns of the longest task."""
        return max(self.num_batches.values())


class Together(RoundRobin):
    """A batch of each task in every step, until the shortest has had its last (both papers' summed loss)."""

    def __len__(self) -> int:
        return self.rounds

    def steps(self, epoch: int, generator: torch.Generator) -> list[Step]:
        """Return all tasks for each of `rounds` steps."""
        return [tuple(self.num_batches)] * self.rounds


class TogetherLongest(Together, RoundRobinLongest):
    """A batch of each task in every step, until the longest has had its last; the others start over."""


class Proportional(TaskMixing):
    """The task of each step is drawn, with a probability in proportion to N ** exponent, N its rows."""

    def exponent(self, epoch: int) -> float:
        """Return the exponent: 1 draws in proportion to the rows, 0 every task equally often."""
        return 1.0

    def probabilities(self, epoch: int) -> torch.Tensor:
        """Return the probability of each task `[tasks]` in epoch `epoch`."""
        sizes = torch.tensor(list(self.num_rows.values()), dtype=torch.float64)
        return torch.softmax(self.exponent(epoch) * sizes.log(), dim=0)

    def steps(self, epoch: int, generator: torch.Generator) -> list[Step]:
        """Draw the task of each step."""
        tasks = list(self.num_batches)
        drawn = torch.multinomial(self.probabilities(epoch), len(self), replacement=True, generator=generator)
        return [(tasks[index],) for index in drawn.tolist()]


class SquareRoot(Proportional):
    """Drawn in proportion to the square root of the rows."""

    def exponent(self, epoch: int) -> float:
        """Return the exponent of the epoch."""
        return 0.5


class Temperature(Proportional):
    """Drawn in proportion to N ** (1 / `temperature`): 1 is `Proportional`, above it small tasks gain."""

    def exponent(self, epoch: int) -> float:
        """Return the exponent of the epoch."""
        return 1 / self.temperature


class Annealed(Proportional):
    """Drawn by an exponent that falls from 1 in the first epoch to 0.2 in the last (Stickland and Murray 2019:
    1 - 0.8 (e - 1) / (E - 1)), so that training ends near to all tasks alike."""

    def exponent(self, epoch: int) -> float:
        """Return the exponent of the epoch."""
        return 1 - 0.8 * min(epoch / max(self.num_epochs - 1, 1), 1.0)


TASK_MIXINGS: dict[str, type[TaskMixing]] = {
    "shuffled": Shuffled,
    "round_robin": RoundRobin,
    "round_robin_longest": RoundRobinLongest,
    "together": Together,
    "together_longest": TogetherLongest,
    "proportional": Proportional,
    "square_root": SquareRoot,
    "temperature": Temperature,
    "annealed": Annealed,
}
"""Ways to mix tasks, by the name that `task_mixing` takes."""
