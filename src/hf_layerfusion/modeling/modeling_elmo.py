"""ELMo (Peters et al. 2018): a bidirectional language model over words that are read by their characters."""

from typing import Any, NamedTuple

import torch
from torch import nn

from .configuration_elmo import ElmoConfig
from .word_encoders import ContextualWordEncoder

# Rows of the table of characters: 1 to 256 are bytes, and padding words have zeros. The public files count from 0.
_SENTENCE_START, _SENTENCE_END, _WORD_START, _WORD_END, _WORD_PADDING = range(257, 262)
NUM_CHARACTERS = 262


class LSTMState(NamedTuple):
    """State of a `ProjectedLSTM`.

    Attributes:
        output: `[B, p]`.
        cell: `[B, lstm_size]`.
    """

    output: torch.Tensor
    cell: torch.Tensor


class ProjectedLSTM(nn.Module):
    """An LSTM whose cells are clipped, and whose outputs are projected and clipped: TensorFlow's `LSTMCell`.

    `torch.nn.LSTM(proj_size=…)` has no clipping, which changes outputs of the published models.
    """

    def __init__(self, config: ElmoConfig):
        super().__init__()
        size, gates = config.projection_size, 4 * config.lstm_size
        self.input = nn.Linear(size, gates)
        self.recurrent = nn.Linear(size, gates, bias=False)
        self.projection = nn.Linear(config.lstm_size, size, bias=False)
        self.cell_clip, self.projection_clip = config.cell_clip, config.projection_clip

    def forward(
        self, inputs: torch.Tensor, lengths: torch.Tensor, state: LSTMState | None = None
    ) -> tuple[torch.Tensor, LSTMState]:
        """Return the outputs `[B, T, p]` and the state after the last real step.

        Args:
            inputs: `[B, T, p]`.
            lengths: number of real steps of each row, `[B]`; outputs beyond are zeros.
            state: of the step before the first; zeros where it is missing.
        """
        gates = self.input(inputs)  # of all steps at once
        rows, steps = inputs.shape[:2]
        if state is None:
            state = LSTMState(
                inputs.new_zeros(rows, inputs.shape[2]), inputs.new_zeros(rows, gates.shape[2] // 4)
            )
        real = (torch.arange(steps, device=inputs.device) < lengths.unsqueeze(1)).unsqueeze(-1)
        outputs = []
        for step in range(steps):
            enter, new, forget, leave = (gates[:, step] + self.recurrent(state.output)).chunk(4, dim=-1)
            cell = torch.sigmoid(forget + 1.0) * state.cell + torch.sigmoid(enter) * torch.tanh(new)
            cell = clipped(cell, self.cell_clip)
            output = clipped(self.projection(torch.sigmoid(leave) * torch.tanh(cell)), self.projection_clip)
            kept = real[:, step]
            state = LSTMState(torch.where(kept, output, state.output), torch.where(kept, cell, state.cell))
            outputs.append(output.masked_fill(~kept, 0.0))
        return torch.stack(outputs, dim=1), state


class Highway(nn.Module):
    """A highway layer: a gate chooses between an input and its transform."""

    def __init__(self, size: int):
        super().__init__()
        self.gate = nn.Linear(size, size)
        self.transform = nn.Linear(size, size)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map `[N, F]` to `[N, F]`."""
        # The public code calls this gate "carry", and lets it carry the transform.
        gate = torch.sigmoid(self.gate(inputs))
        return gate * torch.relu(self.transform(inputs)) + (1 - gate) * inputs


class ElmoModel(ContextualWordEncoder):
    """ELMo as an encoder: layer 1 is each word by itself, the others are the LSTM layers, both directions side by side.

    Each text starts from a state of zeros. AllenNLP's code lets row k of a batch go on from the state of row k of the
    batch before, so that a text's vectors depend on which texts came before it.
    """

    config: ElmoConfig
    config_class = ElmoConfig

    def __init__(self, config: ElmoConfig):
        super().__init__(config)
        filters: Any = config.filters
        size = sum(count for _, count in filters)
        self.characters = nn.Embedding(NUM_CHARACTERS, config.char_embedding_size, padding_idx=0)
        # In dicts, as a list of L modules would be taken for the layers.
        self.convolutions: Any = nn.ModuleDict(
            {
                str(number): nn.Conv1d(config.char_embedding_size, count, width)
                for number, (width, count) in enumerate(filters)
            }
        )
        self.highways: Any = nn.ModuleDict({str(n): Highway(size) for n in range(config.num_highway)})
        self.projection = nn.Linear(size, config.projection_size)
        self.words = nn.Identity()
        layers = range(config.num_lstm_layers)
        self.forward_lstms: Any = nn.ModuleDict({str(n): ProjectedLSTM(config) for n in layers})
        self.backward_lstms: Any = nn.ModuleDict({str(n): ProjectedLSTM(config) for n in layers})
        self.freeze_embeddings()
        self.post_init()

    @property
    def embedded_size(self) -> int:
        """Width p of the words' vectors before the LSTM layers."""
        return self.config.projection_size

    def embed_words(self, char_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return a vector of each word from its characters, `[B, T, E]`."""
        real = torch.arange(char_ids.shape[1], device=char_ids.device) < lengths.unsqueeze(1)
        words = self.read_characters(word_bytes(char_ids[real], self.config.max_characters))
        features = words.new_zeros(*real.shape, words.shape[-1]).masked_scatter(real.unsqueeze(-1), words)
        return self.projection(features)

    def read_characters(self, characters: torch.Tensor) -> torch.Tensor:
        """Map rows of the table of characters, `[N, max_characters]`, to features of words, `[N, F]`."""
        embedded = self.characters(characters).transpose(1, 2)
        function = torch.tanh if self.config.activation == "tanh" else torch.relu
        pooled = [function(conv(embedded).amax(dim=-1)) for conv in self.convolutions.values()]
        words = torch.cat(pooled, dim=-1)
        for highway in self.highways.values():
            words = highway(words)
        return words

    def read_words(self, embedded: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
        """Return the states of the L layers, `[B, T, 2p]` each."""
        states, _ = self.run_language_model(embedded, lengths, None)
        return states

    def run_language_model(
        self, embedded: torch.Tensor, lengths: torch.Tensor, before: list[LSTMState] | None
    ) -> tuple[list[torch.Tensor], list[LSTMState]]:
        """Return the states of the L layers, `[B, T, 2p]` each, and of each LSTM after its last step.

        Args:
            embedded: words `[B, T, p]`, the real ones first.
            lengths: number of real words of each row.
            before: of each LSTM, forward ones first, the state from which it goes on; zeros where it is missing.
        """
        text, lengths = self.with_ends(embedded, lengths)
        steps = torch.arange(text.shape[1], device=text.device)
        # The real steps backwards, then the padding.
        turned = torch.where(steps < lengths.unsqueeze(1), lengths.unsqueeze(1) - 1 - steps, steps).unsqueeze(
            -1
        )
        layers, after = [], []
        count = len(self.forward_lstms)
        for number, lstms in enumerate((self.forward_lstms, self.backward_lstms)):
            order = turned if number else steps.unsqueeze(-1).expand_as(turned)
            inputs = text.gather(1, order.expand_as(text))
            for level, lstm in enumerate(lstms.values()):
                outputs, state = lstm(
                    inputs, lengths, None if before is None else before[number * count + level]
                )
                after.append(state)
                if level and self.config.use_skip_connections:
                    outputs = outputs + inputs
                inputs = outputs
                layers.append(outputs.gather(1, order.expand_as(outputs)))
        words = slice(1, embedded.shape[1] + 1)  # without the ends of the text
        pairs = zip(layers[:count], layers[count:], strict=True)
        states = [torch.cat(pair, dim=-1)[:, words] for pair in pairs]
        return [torch.cat([embedded, embedded], dim=-1), *states], after

    def with_ends(self, embedded: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the marks of a text's start and end around it: `[B, T + 2, p]`, and lengths with them."""
        marks = torch.full((2, self.config.max_characters), _WORD_PADDING, device=embedded.device)
        marks[:, 0], marks[:, 2] = _WORD_START, _WORD_END
        marks[0, 1], marks[1, 1] = _SENTENCE_START, _SENTENCE_END
        start, end = self.projection(self.read_characters(marks))
        rows = embedded.shape[0]
        text = torch.cat([start.expand(rows, 1, -1), embedded, end.expand(rows, 1, -1)], dim=1)
        is_end = torch.arange(text.shape[1], device=text.device) == lengths.unsqueeze(1) + 1
        return torch.where(is_end.unsqueeze(-1), end, text), lengths + 2


def clipped(values: torch.Tensor, bound: float | None) -> torch.Tensor:
    """Return `values` within ±`bound`."""
    return values if bound is None else values.clamp(-bound, bound)


def word_bytes(code_points: torch.Tensor, most: int) -> torch.Tensor:
    """Return the rows of ELMo's table of characters, `[N, most]`, for words of code points, `[N, W]`.

    A word is its mark of beginning, its first `most - 2` bytes in UTF-8, its mark of end, and padding.
    """
    points = code_points.unsqueeze(-1)
    place = torch.arange(4, device=points.device)
    count = 1 + (points >= 0x80).long() + (points >= 0x800).long() + (points >= 0x10000).long()
    shifted = points >> (6 * (count - 1 - place)).clamp(min=0)
    lead = torch.tensor([0, 0, 0xC0, 0xE0, 0xF0], device=points.device)[count]
    values = torch.where(place == 0, lead | shifted, 0x80 | (shifted & 0x3F))
    present = ((place < count) & (points > 0)).flatten(1)
    end = present.sum(dim=1, keepdim=True).clamp(max=most - 2)
    # Bytes beyond the last go to a column that is cut off.
    column = torch.where(present, present.long().cumsum(dim=1), most).clamp(max=most)
    column = torch.where(column > end, most, column)
    found = torch.full((len(code_points), most + 1), _WORD_PADDING, device=points.device)
    found.scatter_(1, column, values.flatten(1) + 1)
    found[:, 0] = _WORD_START
    found.scatter_(1, end + 1, _WORD_END)
    return found[:, :most]
