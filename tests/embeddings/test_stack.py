"""Several embeddings side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from hf_layerfusion import BertForGRUFusionClassification, BertWithPoolingModule, import_embeddings
from hf_layerfusion.__main__ import main
from hf_layerfusion.errors import UserError
from hf_layerfusion.regularizers.encoder_layers import get_encoders
from tests.tiny_words import ELMO_FILES, stack_folder, write_glove

TEXTS = ["what a great day", "sad xylophone"]


def states_of(folder: Path, texts: list[str]) -> Any:
    batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return AutoModel.from_pretrained(folder)(**batch, output_hidden_states=True).hidden_states


def test_members_stand_side_by_side_in_every_layer(tmp_path: Path) -> None:
    stack = stack_folder(tmp_path / "stack")
    alone = [
        import_embeddings(tmp_path / "a", glove=tmp_path / "stack" / "a.txt"),
        import_embeddings(tmp_path / "b", glove=tmp_path / "stack" / "b.txt"),
        import_embeddings(tmp_path / "elmo", elmo=ELMO_FILES),
    ]
    found = states_of(stack, TEXTS)
    first, second, elmo = (states_of(folder, TEXTS) for folder in alone)
    assert len(found) == 4
    for level in range(4):
        expected = torch.cat([first[-1], second[-1], elmo[level]], dim=-1)
        torch.testing.assert_close(found[level], expected, rtol=0, atol=1e-6)


def test_words_of_one_member_are_unknown_to_the_other(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("turkey 1 2\nshared 3 4\n")
    (tmp_path / "two.txt").write_text("goose 5\nshared 6\n")
    folder = import_embeddings(tmp_path / "stack", glove=[tmp_path / "one.txt", tmp_path / "two.txt"])
    assert AutoModel.from_pretrained(folder).config.context_free
    assert type(AutoTokenizer.from_pretrained(folder)).__name__ != "WordTokenizer"
    found = states_of(folder, ["turkey Goose shared other"])[-1][0]
    assert found.tolist() == [[1, 2, 0], [0, 0, 5], [3, 4, 6], [0, 0, 0]]
    with pytest.raises(ValueError, match="must not be 'cls' for 'embedding_stack', whose words see no other"):
        BertWithPoolingModule.from_pretrained(folder, token_pooling="cls")


def test_each_member_finds_what_it_finds_by_itself(tmp_path: Path) -> None:
    """In the order of flair's code, whatever case a member is in and however it writes digits."""
    (tmp_path / "hash.txt").write_text("The 1 1\nking 2 2\n#### 3 3\n##.# 4 4\ncafé 5 5\n")
    (tmp_path / "zero.txt").write_text("King 6 6\n0000 7 7\nc0 8 8\nCafé 9 9\n00.0 1 2\nu0 3 4\n")
    (tmp_path / "lower.txt").write_text("the 5 6\nkıng 7 8\nu# 1 3\n")
    files = [tmp_path / f"{name}.txt" for name in ("hash", "zero", "lower")]
    stack = import_embeddings(tmp_path / "stack", glove=files, lookup="fallback")
    texts = ["The the THE King king KING 1234 12.5 C# c0 CAFÉ Café café U2 u9 other #### 0000"]
    alone = [
        states_of(import_embeddings(tmp_path / f"m{place}", glove=file, lookup="fallback"), texts)[-1]
        for place, file in enumerate(files)
    ]
    # As they stand, #### and 0000 are words of one member each; read as digits they are numbers of the other.
    words = len(texts[0].split()) - 2
    found = states_of(stack, texts)[-1]
    torch.testing.assert_close(found[:, :words], torch.cat(alone, dim=-1)[:, :words], rtol=0, atol=0)
    with pytest.raises(
        UserError, match="--lookup exact finds a word of a stack as it stands, found a vocabulary"
    ):
        import_embeddings(tmp_path / "exact", glove=files)


@pytest.mark.parametrize(
    ("option", "trained"),
    [([], set()), (["--train_embeddings"], {"0", "1"}), (["--train_embeddings", "elmo"], {"1"})],
)
def test_command_makes_a_stack_whose_members_may_be_trained(
    option: list[str], trained: set[str], tmp_path: Path
) -> None:
    write_glove(tmp_path / "g.txt")
    sources = ["--glove", str(tmp_path / "g.txt"), "--elmo", *map(str, ELMO_FILES)]
    main(["import-embeddings", *sources, "--output_dir", str(tmp_path / "out"), *option])
    model = BertForGRUFusionClassification.from_pretrained(tmp_path / "out", fusion="scalar_mix").train()
    model.save_pretrained(tmp_path / "saved")
    for each in (model, BertForGRUFusionClassification.from_pretrained(tmp_path / "saved").train()):
        (encoder,) = get_encoders(each)
        assert encoder is each.model.encoder
        found = {name for name, member in encoder.members.items() if member.training}
        assert found == trained
        names = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
        assert {name.split(".")[1] for name in names} == trained
    for is_trained in (True, False):
        changed = BertForGRUFusionClassification.from_pretrained(
            tmp_path / "out", fusion="scalar_mix", encoder_config={"train_embeddings": is_trained}
        ).train()
        changed.save_pretrained(tmp_path / "changed")
        loaded = BertForGRUFusionClassification.from_pretrained(tmp_path / "changed").train()
        alone = AutoModel.from_pretrained(tmp_path / "out", train_embeddings=is_trained).train()
        for encoder in (changed.model.encoder, loaded.model.encoder, alone):
            assert {parameter.requires_grad for parameter in encoder.parameters()} == {is_trained}
            assert {member.training for member in encoder.members.values()} == {is_trained}
        assert all(parameter.requires_grad for parameter in loaded.classifier.parameters())


def test_formats_to_train_must_be_imported(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="--train_embeddings must name formats that are imported, glove, found 'elmo'"
    ):
        import_embeddings(tmp_path / "out", glove=write_glove(tmp_path / "g.txt"), train_embeddings=["elmo"])
