"""Flair's contextual string embeddings (Akbik et al. 2018): states of language models over a text's characters."""

from typing import Any

import torch
from torch import nn

from .configuration_flair import FlairConfig
from .word_encoders import ContextualWordEncoder


class CharacterLanguageModel(nn.Module):
    """A language model of one direction."""

    def __init__(self, config: FlairConfig, direction: int):
        super().__init__()
        characters: Any = config.characters
        embedding_sizes: Any = config.char_embedding_sizes
        sizes: Any = config.lstm_sizes
        self.embedding = nn.Embedding(len(characters), embedding_sizes[direction])
        self.lstm = nn.LSTM(
            embedding_sizes[direction], sizes[direction], config.num_lstm_layers, batch_first=True
        )
        self.dropout = nn.Dropout(config.lstm_dropout)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """Map rows of the table of characters, `[B, S]`, to states, `[B, S, h]`."""
        states, _ = self.lstm(self.dropout(self.embedding(text)))
        return self.dropout(states)


class FlairModel(ContextualWordEncoder):
    """Flair's embeddings as an encoder of one layer (L = 1).

    A word's vector is the state of the forward model at the blank after the word, and beside it that of the backward
    model at the blank before it. The words of a text are joined by single blanks.
    """

    config: FlairConfig
    config_class = FlairConfig

    def __init__(self, config: FlairConfig):
        super().__init__(config)
        self.forward_model = CharacterLanguageModel(config, 0)
        self.backward_model = CharacterLanguageModel(config, 1)
        self.words = nn.Identity()
        self.freeze_embeddings()
        self.post_init()

    @property
    def embedded_size(self) -> int:
        """Width H of the words' vectors, which are the only layer's states."""
        size: Any = self.config.hidden_size
        return size

    def embed_words(self, char_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return the states of both character language models at each word, `[B, T, E]`."""
        rows, sizes = self.character_rows(char_ids), char_ids.ne(0).sum(dim=-1)
        steps = torch.arange(char_ids.shape[1], device=char_ids.device)
        # The real words in the other order, and the letters of each.
        turned = torch.where(steps < lengths.unsqueeze(1), lengths.unsqueeze(1) - 1 - steps, steps)
        places = torch.arange(char_ids.shape[2], device=char_ids.device)
        letters = torch.where(places < sizes.unsqueeze(-1), sizes.unsqueeze(-1) - 1 - places, places)
        backward = rows.gather(2, letters).gather(1, turned.unsqueeze(-1).expand_as(rows))
        behind = self.states_at_blanks(self.backward_model, backward, sizes.gather(1, turned), lengths)
        ahead = self.states_at_blanks(self.forward_model, rows, sizes, lengths)
        return torch.cat([ahead, behind.gather(1, turned.unsqueeze(-1).expand_as(behind))], dim=-1)

    def read_words(self, embedded: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
        """Return the words' vectors as the states of a single layer."""
        return [embedded]

    def states_at_blanks(
        self, model: nn.Module, rows: torch.Tensor, sizes: torch.Tensor, lengths: torch.Tensor
    ) -> torch.Tensor:
        """Return the state at the blank after each word, `[B, T, h]`.

        Args:
            model: reads a line feed, and the words with a blank after each.
            rows: of the table of characters, `[B, T, W]`.
            sizes: number of characters of each word, `[B, T]`.
            lengths: number of real words of each row.
        """
        line_feed, blank = self.character_rows(torch.tensor([10, 32], device=rows.device))
        count, longest = rows.shape[0], rows.shape[2]
        blanks = (sizes + 1).cumsum(dim=1)
        real = torch.arange(rows.shape[1], device=rows.device) < lengths.unsqueeze(1)
        end = int(blanks.masked_fill(~real, 0).amax()) + 1
        places = torch.arange(longest, device=rows.device)
        columns = (blanks - sizes).unsqueeze(-1) + places
        # What is no character goes to a column that is cut off.
        present = (places < sizes.unsqueeze(-1)) & real.unsqueeze(-1)
        text = blank.expand(count, end + 1).clone()
        text.scatter_(1, torch.where(present, columns, end).flatten(1), rows.flatten(1))
        text[:, 0] = line_feed
        states = model(text[:, :end])
        found = blanks.clamp(max=end - 1).unsqueeze(-1).expand(-1, -1, states.shape[-1])
        return states.gather(1, found)

    def character_rows(self, code_points: torch.Tensor) -> torch.Tensor:
        """Return the rows of the table of characters, 0 for those that are not in the dictionary."""
        items: Any = self.config.characters
        known = sorted((ord(item), row) for row, item in enumerate(items) if len(item) == 1)
        points, rows = torch.tensor(known, device=code_points.device).T.contiguous()
        place = torch.searchsorted(points, code_points).clamp(max=len(points) - 1)
        return torch.where(points[place] == code_points, rows[place], 0)
