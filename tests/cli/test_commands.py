"""The commands from raw texts to answers: train, predict, evaluate, compare, layers, env, debug-data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from hf_layerfusion.__main__ import main
from hf_layerfusion.cli.options import read_arguments
from hf_layerfusion.cli.recipe_command import check_paths
from hf_layerfusion.cli.train_command import RECIPE, own_texts
from hf_layerfusion.ensembling.trained_texts import read_trained_texts
from hf_layerfusion.evaluation.significance import paired_bootstrap
from hf_layerfusion.training.trainer import LayerFusionTrainer
from tests import figures
from tests.tiny import read_csv, tiny_texts, write_csv


@pytest.fixture(scope="module")
def run_folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: str, tiny_tweets: dict[str, Path]
) -> Path:
    """The folder of a run of `train` of two epochs, by a configuration file and a flag."""
    folder = tmp_path_factory.mktemp("command")
    lines = [f"{split}_file: {path}" for split, path in tiny_tweets.items()]
    (folder / "settings.yaml").write_text(
        "\n".join([*lines, f"model_name_or_path: {tiny_encoder_dir}", "num_train_epochs: 9", "use_cpu: true"])
    )
    main(
        [
            "train",
            "--config",
            str(folder / "settings.yaml"),
            "--output_dir",
            str(folder / "run"),
            "--num_train_epochs",
            "2",
            "--learning_rate",
            "3e-3",
        ]
    )
    return folder / "run"


def test_train_takes_its_limit_from_the_data_and_cleans_nothing(
    run_folder: Path, tiny_tweets: dict[str, Path]
) -> None:
    settings = json.loads((run_folder / "run" / "run.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(run_folder)
    lengths = [len(tokenizer(row["text"])["input_ids"]) for row in read_csv(tiny_tweets["train"])]
    assert settings["max_seq_length"] == int(np.ceil(np.percentile(lengths, 99)))
    assert settings["preprocessing"] == "none" and settings["pooling"] == "scalar_mix"
    assert settings["warmup_steps"] == 0.1 and settings["max_grad_norm"] == 1.0


def test_the_settings_beside_the_model_run_it_again(run_folder: Path, tmp_path: Path) -> None:
    main(["train", "--config", str(run_folder / "run" / "run.yaml"), "--output_dir", str(tmp_path / "again")])
    first, second = (load_file(folder / "model.safetensors") for folder in (run_folder, tmp_path / "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_train_shows_the_users_own_texts(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hf_layerfusion.cli.train_command import own_texts

    texts = [row["text"] for row in read_csv(run_folder / "run" / "predictions.csv")][:3]
    assert own_texts(run_folder / "run" / "predictions.csv", ["text"]) == texts


def test_predict_refuses_an_ensemble_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vote").mkdir()
    (tmp_path / "vote" / "ensemble.json").write_text("{}")
    texts = write_csv(tmp_path / "texts.csv", [("a", "x")])
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(tmp_path / "vote"), str(texts), "--output_dir", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "found an ensemble; ask it in Python, by Ensemble.from_pretrained" in capsys.readouterr().err


def test_predict_answers_a_file_as_the_run_answered_it(
    run_folder: Path, tiny_tweets: dict[str, Path], tmp_path: Path
) -> None:
    main(
        [
            "predict",
            str(run_folder),
            str(tiny_tweets["test"]),
            "--output_dir",
            str(tmp_path / "out"),
            "--class_scores",
            "--use_cpu",
        ]
    )
    rows, of_run = (
        read_csv(tmp_path / "out" / "predictions.csv"),
        read_csv(run_folder / "run" / "predictions.csv"),
    )
    assert [(row["text"], row["label"]) for row in rows] == [(row["text"], row["label"]) for row in of_run]
    for row in rows:
        assert float(row[f"score_{row['label']}"]) == float(row["score"])
        assert float(row["score_negative"]) + float(row["score_positive"]) == pytest.approx(1, abs=1e-5)


def test_a_run_of_an_earlier_version_is_read_as_before(
    run_folder: Path, tiny_tweets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its records lie at the top of its folder."""
    earlier = shutil.copytree(run_folder, tmp_path / "earlier")
    settings = earlier / "run" / "run.yaml"
    for record in (earlier / "run").iterdir():
        record.rename(earlier / record.name)
    (earlier / "run").rmdir()
    manifest = earlier / "model_manifest.json"
    manifest.write_text(manifest.read_text().replace("run/trained_texts.npz", "trained_texts.npz"))
    main(
        [
            "predict",
            str(earlier),
            str(tiny_tweets["test"]),
            "--output_dir",
            str(tmp_path / "out"),
            "--use_cpu",
        ]
    )
    found = read_csv(tmp_path / "out" / "predictions.csv")
    assert [row["label"] for row in found] == [
        row["label"] for row in read_csv(run_folder / "run" / "predictions.csv")
    ]
    capsys.readouterr()
    main(["compare", str(earlier), str(run_folder), "--json"])
    assert json.loads(capsys.readouterr().out)["runs"][1]["difference"]["difference"] == 0
    main(["layers", str(earlier), "--json"])
    assert list(json.loads(capsys.readouterr().out)) == [str(earlier)]
    main(["verify", str(earlier)])
    seen, expected = (read_trained_texts(folder) for folder in (earlier, run_folder))
    assert seen is not None and expected is not None
    assert all((seen[part] == expected[part]).all() for part in expected)
    capsys.readouterr()
    options = ["--output_dir", str(earlier), "--resume_from_checkpoint", "True"]
    main(["train", "--config", str(earlier / settings.name), *options])
    assert not (earlier / "run" / "all_results.json").exists()  # nothing was trained again


def test_evaluate_measures_as_the_run_did(
    run_folder: Path, tiny_tweets: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    main(["evaluate", str(run_folder), str(tiny_tweets["test"]), "--use_cpu"])
    shown = dict(line.split() for line in capsys.readouterr().out.splitlines())
    results = json.loads((run_folder / "run" / "all_results.json").read_text())
    assert float(shown["accuracy"]) == pytest.approx(results["test_accuracy"], abs=1e-4)
    (tmp_path / "bare.csv").write_text("text\nhello\n")
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", str(run_folder), str(tmp_path / "bare.csv"), "--use_cpu"])
    assert "has no labels to compare with" in capsys.readouterr().err


def test_compare_tests_the_difference_of_two_runs(
    run_folder: Path, tiny_tweets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other run is the first with another half of its answers turned round."""
    other = tmp_path / "other"
    (other / "run").mkdir(parents=True)
    for name in ("run/run.json", "config.json"):
        (other / name).write_bytes((run_folder / name).read_bytes())
    lines = (run_folder / "run" / "predictions.csv").read_text().splitlines()
    turned = {"positive": "negative", "negative": "positive"}
    rows = [line.split(",") for line in lines]
    for row in rows[1:12]:
        row[2] = turned[row[2]]
    (other / "run" / "predictions.csv").write_text("\n".join(map(",".join, rows)) + "\n")
    main(["compare", str(run_folder), str(other), str(run_folder), "--json"])
    found = json.loads(capsys.readouterr().out)
    truth = [row["label"] for row in read_csv(tiny_tweets["test"])]
    scores = [
        [
            float(row["label"] == label)
            for row, label in zip(read_csv(folder / "run" / "predictions.csv"), truth, strict=True)
        ]
        for folder in (run_folder, other)
    ]
    expected = paired_bootstrap(*scores)
    assert [run["mean"] for run in found["runs"]] == pytest.approx(
        [*map(np.mean, scores), np.mean(scores[0])]
    )
    assert found["runs"][1]["difference"]["p_value"] == expected.p_value
    assert found["runs"][1]["p_holm"] == min(1.0, 2 * expected.p_value)
    main(["compare", str(run_folder), str(other)])
    assert "p (Holm)" in capsys.readouterr().out


def test_compare_refuses_runs_on_other_texts(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_bytes((run_folder / "run" / "run.json").read_bytes())
    (tmp_path / "config.json").write_bytes((run_folder / "config.json").read_bytes())
    lines = (run_folder / "run" / "predictions.csv").read_text().splitlines()
    (tmp_path / "predictions.csv").write_text("\n".join(lines[:-1]) + "\n")
    for runs, hint in (
        ([tmp_path], "found other texts"),
        ([tmp_path / "no"], "no run.json"),
        ([], "two runs"),
    ):
        with pytest.raises(SystemExit):
            main(["compare", str(run_folder), *map(str, runs)])
        assert hint in capsys.readouterr().err


def test_report_shows_what_the_run_measured(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with figures.blank():
        main(["report", str(run_folder), "--output_file", str(tmp_path / "report.html")])
    assert "the report of 1 run" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    results = json.loads((run_folder / "run" / "all_results.json").read_text())
    for metric in ("accuracy", "f1_macro", "recall_macro", "loss"):
        assert f"<b>{results[f'test_{metric}']:.3f}</b>" in page
    assert page.count("data:image/png;base64,") == 2 and "Worst mistakes" in page


def test_layers_shows_what_the_run_measured(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["layers", str(run_folder)])
    shown = capsys.readouterr().out
    assert "Drop in accuracy" in shown and len(shown.strip().splitlines()) == 6  # 4 layers
    with pytest.raises(SystemExit):
        main(["layers", "no/such/run"])
    assert "no such folder" in capsys.readouterr().err


def test_a_run_that_dies_has_left_its_settings(
    tmp_path: Path,
    tiny_tweets: dict[str, Path],
    tiny_encoder_dir: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def die(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("hf_layerfusion.recipes.training_run.train_and_predict", die)
    with pytest.raises(MemoryError):
        main(["train", "--model_name_or_path", tiny_encoder_dir, "--train_file", str(tiny_tweets["train"]), "--use_cpu",
              "--learning_rate", "0.002", "--output_dir", str(tmp_path / "run")])  # fmt: skip
    given = read_arguments(
        "train", RECIPE.options(), ["--config", str(tmp_path / "run" / "run" / "run.yaml")]
    )
    assert given.values["learning_rate"] == 0.002


def test_the_sample_has_a_configuration_that_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["sample", str(tmp_path / "sample")])
    monkeypatch.chdir(tmp_path / "sample")
    given = read_arguments("train", RECIPE.options(), ["--config", "sample.yaml"])
    check_paths(given.values)
    main(["debug-data", "train.csv", "--validation_file", "validation.csv", "--test_file", "test.csv"])
    assert "no findings" in capsys.readouterr().out
    # Ensembles are fitted on texts that no member has seen.
    main(["debug-data", "train.csv", "--validation_file", "validation.csv", "--test_file", "unseen.csv"])
    assert "no findings" in capsys.readouterr().out
    assert not {row["text"] for row in read_csv(Path("unseen.csv"))} & {
        row["text"] for row in read_csv(Path("test.csv"))
    }


def test_env_names_versions(capsys: pytest.CaptureFixture[str]) -> None:
    main(["env"])
    shown = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert shown["torch"] == torch.__version__
    assert {"hf_layerfusion", "transformers", "system", "GPU"} <= shown.keys()


def test_debug_data_names_what_is_wrong_with_its_rows(
    tmp_path: Path, tiny_encoder_dir: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[tuple[str, str]] = [*tiny_texts(20), ("good day", "positive"), ("good day", "negative")]
    rows += [("It&amp;s a café".replace("é", "Ã©"), "positive"), ("fun " * 70, "positive")]
    write_csv(tmp_path / "train.csv", rows)
    write_csv(tmp_path / "test.csv", [("Good day!", "positive"), rows[0], ("so so", "neutral")])
    arguments: list[Any] = [tmp_path / "train.csv", "--test_file", tmp_path / "test.csv"]
    main(["debug-data", *map(str, arguments), "--model_name_or_path", tiny_encoder_dir])
    shown = capsys.readouterr().out
    assert "train: 24 rows" in shown and "labels: positive 13, negative 11" in shown
    for line in (
        "1 texts stand in an earlier row too (rows 23)",
        "1 of these have another label there (rows 23)",
        "1 texts hold characters of a wrong decoding, such as â€™ or Ã© (rows 24)",
        "1 texts hold HTML entities, such as &amp; (rows 24)",
        "1 texts have more than 64 tokens and are cut, 4% of all (--window_size reads them in windows) (rows 25)",
        "1 texts stand in train too (rows 3)",
        "1 texts differ from a text of train in capitals or signs alone (rows 2)",
        "classes that train does not have: neutral",
    ):
        assert line in shown, line


def test_predictions_that_cannot_be_written_are_refused_before_training(
    tmp_path: Path, tiny_encoder_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(LayerFusionTrainer, "train")
    rows = [
        {"value": text, "label": number / 8, "tags": [label, "a;b"]}
        for number, (text, label) in enumerate(tiny_texts(16))
    ]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number, (options, message) in enumerate(
        (
            (["--label_column", "tags"], "a label of a multi-label task must hold no ';', found 'a;b'"),
            (["--prediction_format", "kaggle"], "prediction_format kaggle needs a task of two classes"),
            ([], "text column 'value' is named as a column of the predictions"),
        )
    ):
        with pytest.raises(SystemExit) as end:
            main(
                ["train", "--train_file", str(file), "--text_column", "value", "--use_cpu", "--model_name_or_path",
                 tiny_encoder_dir, "--output_dir", str(tmp_path / f"run-{number}"), *options]
            )  # fmt: skip
        assert end.value.code == 2, message
        assert not (tmp_path / f"run-{number}").exists()


def test_texts_that_are_longer_than_the_fields_of_the_csv_module_are_shown(tmp_path: Path) -> None:
    long = "word " * 40_000
    (tmp_path / "predictions.csv").write_text(f"id,text,label,score\n0,{long},a,1\n")
    assert own_texts(tmp_path / "predictions.csv", ["text"]) == [long]
