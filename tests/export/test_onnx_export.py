from __future__ import annotations

import copy
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnxruntime import InferenceSession
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from hf_layerfusion import verify_saved
from hf_layerfusion.errors import UserError
from hf_layerfusion.export import export_onnx, onnx_export, quantize_onnx
from hf_layerfusion.export.onnx_export import MODEL_FILE, QUANTIZED_FILE
from hf_layerfusion.hub.manifest import MODEL_MANIFEST
from tests.export.cheap_encoder import build_cheap
from tests.modeling import multitask_cases
from tests.tiny import tiny_config, tiny_tokenizer

# Every kind of fuser, cell and pooling that has operations of its own; the last of each kind could not be opened or run
# in int8.
CASES = ("share-gru", "share-minlstm", "cat-lstm", "share_depth-lstm", "lstm-cls", "attention-mean")
SLOW = ("share-minlstm", "share_depth-lstm")
# Of other sizes than the examples that are exported, padded on the right, on the left, and with holes.
MASKS = (
    [[1] * 11, [1] * 4 + [0] * 7],
    [[0] * 3 + [1] * 8, [0] * 10 + [1], [1] * 11, [1, 0] * 5 + [1], [0, 0, 1] * 3 + [1, 1]],
    [[1, 1]],
)


def check(model: PreTrainedModel, folder: Path, shape: Any = lambda values: values) -> None:
    """The graph in `folder` gives the model's logits, of every mask."""
    session = InferenceSession(folder / MODEL_FILE)
    seen = []
    for rows in MASKS:
        mask = shape(torch.tensor(rows))
        batch = {
            "input_ids": torch.randint(5, 100, mask.shape) * mask,
            "attention_mask": mask,
            "token_type_ids": torch.zeros_like(mask),
        }
        with torch.no_grad():
            expected = model(**batch).logits.numpy()
        (logits,) = session.run(None, {name: value.numpy() for name, value in batch.items()})
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
        seen.append(expected)
    assert np.ptp(np.concatenate(seen), axis=0).max() > 1e-3


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * (case in SLOW)) for case in CASES]
)
def test_graph_gives_the_logits_for_every_size_and_padding(case: str, tmp_path: Path) -> None:
    model = build_cheap(case)
    difference = export_onnx(model, tiny_tokenizer(), tmp_path / "onnx", quantize=True)
    assert 0 <= difference < 1e-5
    check(model, tmp_path / "onnx")
    batch = onnx_export.example(tiny_tokenizer(), False, 4, 9)
    exact, quantized = (
        onnx_export.run(tmp_path / "onnx" / name, [batch])[0] for name in (MODEL_FILE, QUANTIZED_FILE)
    )
    assert 0 < np.abs(quantized - exact).max() < 0.1 * np.ptp(exact)
    # Seven bits, which no CPU saturates at.
    initializers = onnx.load(tmp_path / "onnx" / QUANTIZED_FILE).graph.initializer
    weights = [
        numpy_helper.to_array(each) for each in initializers if each.data_type == onnx.TensorProto.INT8
    ]
    assert max(np.abs(each.astype(int)).max() for each in weights) <= 64
    graph = onnx.load(tmp_path / "onnx" / MODEL_FILE).graph
    recurrences = [node for node in graph.node if node.op_type in ("GRU", "LSTM")]
    # Without lengths, which other runtimes do not read as onnxruntime does.
    assert not any(len(node.input) > 4 and node.input[4] for node in recurrences)


def test_a_plain_classifier_in_half_precision_becomes_a_graph_in_single(tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_config(tiny_config("bert", 1)).eval().bfloat16()
    multitask_cases.scramble(model)
    export_onnx(model, tiny_tokenizer(), tmp_path)  # an empty folder is as good as a new one
    assert model.dtype == torch.bfloat16
    check(model.float(), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {MODEL_FILE, MODEL_MANIFEST, "config.json", "tokenizer.json", "tokenizer_config.json"}


def test_a_task_of_cerbertus(tmp_path: Path) -> None:
    model = multitask_cases.build(num_task_layers=1).task("quora")
    export_onnx(model, tiny_tokenizer(), tmp_path / "onnx")
    check(model, tmp_path / "onnx")


def test_a_task_of_siamese_pairs(siamese: tuple[Any, Path]) -> None:
    model, folder = siamese
    check(model.task("sts"), folder, lambda values: values.unsqueeze(1).repeat(1, 2, 1))


def test_a_quantised_graph_is_smaller_and_opened_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "onnx"
    export_onnx(
        build_cheap("last-cls", encoder_config=tiny_config("bert", vocab_size=4000)), tiny_tokenizer(), folder
    )
    before = {path.name for path in folder.iterdir()}
    with monkeypatch.context() as patch:
        for fault, message in FAULTS.items():
            patch.setattr("onnxruntime.quantization.quantize_dynamic", partial(write_faulty, fault))
            with pytest.raises(UserError, match=message):
                quantize_onnx(folder)
            assert {path.name for path in folder.iterdir()} == before
    files = verify_saved(folder).files
    quantized = quantize_onnx(folder)
    assert quantized.stat().st_size < 0.5 * (folder / MODEL_FILE).stat().st_size
    assert verify_saved(folder) == (files + 1, [])
    with pytest.raises(
        UserError, match=r"model_quantized.onnx: must not be there yet, found it; remove it\.$"
    ):
        quantize_onnx(folder)


FAULTS = {
    "unopened": "model_quantized.onnx: onnxruntime must open and run it, found ",
    "wrong": "its logits must be those of model.onnx to 50%",
}


def write_faulty(fault: str, graph: Any, target: Path, **options: Any) -> None:
    """In place of quantization, a graph with an operator that nobody knows, or with other weights of its head."""
    graph = copy.deepcopy(graph)
    if fault == "unopened":
        graph.graph.node[0].op_type = "Unknown"
    for weight in graph.graph.initializer:
        if "classifier" in weight.name:
            weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    onnx.save(graph, target)


def test_a_damaged_graph_is_found(siamese: tuple[Any, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(siamese[1], tmp_path / "onnx"))
    assert verify_saved(folder).not_listed == []
    for name in (MODEL_FILE, "tokenizer.json", "config.json"):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} has changed since it was saved"):
            verify_saved(folder)
        shutil.copyfile(siamese[1] / name, folder / name)


def test_quantising_needs_a_graph(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must hold model.onnx, found none; export a model there\.$"):
        quantize_onnx(tmp_path)


def test_a_folder_with_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").touch()
    with pytest.raises(UserError, match=r"must be a new or empty folder, found files there; name another\.$"):
        export_onnx(build_cheap("last-cls"), tiny_tokenizer(), tmp_path)


def test_inputs_that_the_graph_has_no_place_for_are_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask", "bbox"]
    with pytest.raises(UserError, match=r"found \['bbox'\]; use another\.$"):
        export_onnx(build_cheap("last-cls"), tokenizer, tmp_path / "onnx")


def test_a_graph_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "run", lambda path, batches: [np.full(3, np.nan) for _ in batches])
    with pytest.raises(
        UserError, match=r"must give the same logits .* difference of nan with 'bert'; use another"
    ):
        export_onnx(build_cheap("last-cls"), tiny_tokenizer(), tmp_path / "onnx")
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_torch_cannot_export_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise torch.onnx.OnnxExporterError("Failed.\nNext steps: ...") from RuntimeError(
            "Cannot guard\non it"
        )

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(UserError, match=r"^model: must be .*\(Cannot guard\); use another encoder\.$"):
        export_onnx(build_cheap("lstm-cls"), tiny_tokenizer(), tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(
        UserError, match=r'found no onnxscript; run `pip install "hf_layerfusion\[onnx\]"`\.$'
    ):
        export_onnx(build_cheap("last-cls"), tiny_tokenizer(), tmp_path / "onnx")
