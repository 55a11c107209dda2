"""Tests of run_multitask.py: a tasks file in, a folder out, with all predictions in the course's format too."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, pipeline

from hf_layerfusion import SENTENCE_FUSERS, CerbertusForMultitask, TaskConfig
from hf_layerfusion.__main__ import main
from hf_layerfusion.cli.script import with_recipe
from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.multitask.multitask_arguments import (
    MultitaskDataArguments,
    MultitaskModelArguments,
)
from hf_layerfusion.recipes.multitask.multitask_run import train_tasks
from hf_layerfusion.recipes.multitask.task_prediction import select_tasks
from hf_layerfusion.recipes.multitask.task_preparation import make_tasks, read_tasks_file
from hf_layerfusion.recipes.multitask.task_training import load_multitask_model
from reproduction.run_recipes import MULTITASK_CLASSES
from tests.examples.command_line import QUICK_TRAINING, parse
from tests.tiny import (
    NEGATIVE_WORDS,
    POSITIVE_WORDS,
    read_csv,
    tiny_config,
    tiny_texts,
    tiny_tokenizer,
)

ID_COLUMNS = {"sst5": "id", "quora": "id", "sts": "pair"}


def write_tsv(path, header, rows):
    """Write a file like the course's: tabs, and an index column without a name."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(
            [("", *header), *((number, *row) for number, row in enumerate(rows))]
        )


def pairs(count, seed):
    """Return pairs of texts of equal or different sentiment, with their similarity: 5 or 0, less a little noise."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        first, second = rng.integers(0, 2, 2)
        words = [(NEGATIVE_WORDS, POSITIVE_WORDS)[side][rng.integers(0, 8)] for side in (first, second)]
        alike = int(first == second)
        value = abs(5 * alike - round(rng.random(), 1))
        rows.append((f"id{seed}{number}", f"the {words[0]} day", f"a {words[1]} night", alike, value))
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The course's files, small, with the tasks file that ships for them."""
    folder = tmp_path_factory.mktemp("course")
    for split, count, seed in (("train", 80, 0), ("dev", 30, 1), ("test-student", 7, 2)):
        labelled = split != "test-student"
        texts = [
            (f"t{seed}{n}", text, 1 + int(label == "positive"))
            for n, (text, label) in enumerate(tiny_texts(count, seed))
        ]
        write_tsv(
            folder / f"ids-sst-{split}.csv",
            ("id", "sentence", *(("sentiment",) if labelled else ())),
            [row if labelled else row[:2] for row in texts],
        )
        for stem, column, place in (("quora", "is_duplicate", 3), ("sts", "similarity", 4)):
            write_tsv(
                folder / f"{stem}-{split}.csv",
                (ID_COLUMNS[stem], "sentence1", "sentence2", *((column,) if labelled else ())),
                [(*row[:3], float(row[place])) if labelled else row[:3] for row in pairs(count, seed)],
            )
    with open("examples/tasks_course.json", encoding="utf-8") as file:
        tasks = json.load(file)
    tasks["sst5"]["labels"] = ["negative", "positive"]  # of 1 and 2, which are no ids
    tasks["sts"]["id_column"] = ID_COLUMNS["sts"]
    (folder / "tasks.json").write_text(json.dumps(tasks))
    return folder


@pytest.fixture(scope="module")
def call(tiny_encoder_dir, folder):
    """Call the script's function with the tiny encoder and data, as from the command line."""

    def run(output, *extra, **changes):
        options = {
            "model_name_or_path": tiny_encoder_dir,
            "tasks_file": folder / "tasks.json",
            "output_dir": output,
            **QUICK_TRAINING,
            **changes,
        }
        return train_tasks(*parse(MULTITASK_CLASSES, options, *extra))

    return run


@pytest.fixture(scope="module")
def run(call, tmp_path_factory):
    output = tmp_path_factory.mktemp("multitask") / "run"
    return output, call(output, num_train_epochs=4, prediction_format="course")


def test_a_run_reports_each_task_their_mean_and_the_best_of_each(run):
    output, results = run
    names = ("sst5_accuracy", "quora_accuracy", "sts_pearsonr")
    assert results["test_mean"] == pytest.approx(np.mean([results[f"test_{name}"] for name in names]))
    assert results["best_of_each_mean"] == pytest.approx(
        np.mean([results[f"best_of_each_{name}"] for name in names])
    )
    assert results["test_sst5_accuracy"] > 0.7
    history = json.loads((output / "run" / "trainer_state.json").read_text())["log_history"]
    chosen = max(entry["eval_mean"] for entry in history if "eval_mean" in entry)
    assert results["validation_mean"] == pytest.approx(chosen)
    for name in names:
        task = name.partition("_")[0]
        best = max(entry[f"eval_{name}"] for entry in history if f"eval_{name}" in entry)
        assert json.loads((output / f"best-{task}" / "best.json").read_text())["value"] == pytest.approx(best)


@pytest.mark.parametrize("recipe", ["frozen", "tuned"])
def test_recipes_start_every_head_from_a_probe_of_all_layers(call, tmp_path, recipe):
    output = tmp_path / "run"
    options = with_recipe(
        MULTITASK_CLASSES,
        {"recipe": recipe, **QUICK_TRAINING, "num_train_epochs": 2.0, "learning_rate": 1e-3},
    )
    if recipe == "frozen":
        options["cache_frozen_states"] = str(tmp_path / "states")
    results = call(output, **options)
    assert results["test_mean"] > 0
    model = CerbertusForMultitask.from_pretrained(output)
    for task in model.config.tasks.values():
        assert task["fusion"] == {"pooling": "concat", "token_pooling": "mean"}
    card = (output / "README.md").read_text()
    assert "Tasks that read several layers of the encoder: sst5, quora, sts." in card
    fuser = model.heads["sts"].readers["shared"].fuser
    assert not torch.equal(fuser.scale, torch.ones_like(fuser.scale))
    classify = pipeline("text-classification", str(output), trust_remote_code=True)
    assert classify("a good day")[0]["label"] in ("negative", "positive")


def test_a_search_over_the_pooling_builds_the_model_that_it_draws(folder, tiny_encoder_dir):
    """`MultitaskExperiment.load_model` is what a trial calls."""
    tasks = make_tasks(read_tasks_file(str(folder / "tasks.json")), folder, MultitaskDataArguments())
    tasks = {name: tasks[name] for name in ("sst5",)}
    tasks["sst5"].settings["problem_type"] = "single_label_classification"
    for pooling in ("concat", "mean"):
        arguments = MultitaskModelArguments(tiny_encoder_dir, num_task_layers=0, pooling=pooling)
        model = load_multitask_model(arguments, tasks)
        assert isinstance(model.heads["sst5"].readers["shared"].fuser, SENTENCE_FUSERS[pooling])


def test_a_tasks_own_vector_stays_with_pooling(folder):
    entries = read_tasks_file(str(folder / "tasks.json"))
    entries["sst5"]["sentence_vector"] = "mean"
    arguments = MultitaskModelArguments(model_name_or_path="a", pooling="lstm")
    tasks = make_tasks(entries, folder, MultitaskDataArguments())
    assert "fusion" not in tasks["sst5"].settings_in(arguments)
    assert tasks["quora"].settings_in(arguments)["fusion"] == {"pooling": "lstm"}
    with pytest.raises(UserError, match="--token_pooling mean is of the layers' fuser, found no --pooling"):
        MultitaskModelArguments(model_name_or_path="a", token_pooling="mean")


def test_figures_of_the_report_are_those_of_its_predictions(run, folder):
    output, results = run
    rows = read_csv(output / "run" / "predictions" / "quora-test.csv")
    with open(folder / "quora-dev.csv", newline="") as file:
        truth = {row["id"]: row["is_duplicate"] for row in csv.DictReader(file, delimiter="\t")}
    right = [(row["label"] == "duplicate") == (float(truth[row["id"]]) == 1) for row in rows]
    assert results["test_quora_accuracy"] == pytest.approx(np.mean(right))
    values = [float(row["value"]) for row in read_csv(output / "run" / "predictions" / "sts-test.csv")]
    assert 0 <= min(values) <= max(values) <= 5


def test_the_commands_predict_and_evaluate_answer_as_the_run_did(run, folder, tmp_path, capsys):
    output, results = run
    given = ["--use_cpu", "--id_column", "id"]
    given_too = ["--use_cpu", "--id_column", "pair", "--output_dir", str(tmp_path / "new")]
    main(["predict", str(output), str(folder / "sts-dev.csv"), "--task", "sts", *given_too])
    found = read_csv(tmp_path / "new" / "predictions" / "sts.csv")
    expected = read_csv(output / "run" / "predictions" / "sts-test.csv")
    assert list(found[0]) == list(expected[0]) == ["pair", "sentence1", "sentence2", "value"]
    assert [row["sentence1"] for row in found] == [row["sentence1"] for row in expected]
    assert [float(row["value"]) for row in found] == pytest.approx(
        [float(row["value"]) for row in expected], abs=1e-5
    )
    capsys.readouterr()
    main(["evaluate", str(output), str(folder / "ids-sst-dev.csv"), "--task", "sst5", *given])
    shown = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert float(shown["sst5_accuracy"]) == pytest.approx(results["test_sst5_accuracy"], abs=1e-4)
    # Raw labels that could be ids are those of training.
    lines = (folder / "ids-sst-dev.csv").read_text().splitlines()
    ones = tmp_path / "ones.csv"
    ones.write_text("\n".join([lines[0], *(line for line in lines[1:] if line.endswith("\t1"))]) + "\n")
    main(["evaluate", str(output), str(ones), "--task", "sst5", *given])
    assert float(dict(map(str.split, capsys.readouterr().out.splitlines()))["sst5_accuracy"]) > 0.7


def test_runs_are_compared_task_by_task(run, tmp_path, capsys):
    output, results = run
    other = tmp_path / "other"
    shutil.copytree(output / "run", other / "run")
    file = other / "run" / "predictions" / "quora-test.csv"
    names = {"duplicate": "different", "different": "duplicate"}
    rows = [{**row, "label": names[row["label"]]} for row in read_csv(file)]
    with open(file, "w", newline="") as opened:
        writer = csv.DictWriter(opened, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    main(["compare", str(output), str(other), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"sst5", "quora", "sts"}
    assert found["sst5"]["measure"] == "accuracy" and found["sts"]["measure"] == "negative squared error"
    first, second = found["quora"]["runs"]
    assert first["mean"] == pytest.approx(results["test_quora_accuracy"])
    assert second["mean"] == pytest.approx(1 - first["mean"])
    assert second["difference"]["difference"] == pytest.approx(second["mean"] - first["mean"])
    assert found["sst5"]["runs"][1]["difference"]["difference"] == 0
    # Holm's correction counts all three tasks.
    assert second["p_holm"] == pytest.approx(min(1, 3 * second["difference"]["p_value"]))
    main(["compare", str(output), str(other), "--task", "quora"])
    assert "sst5" not in capsys.readouterr().out
    main(["report", str(output), str(other), "--output_file", str(tmp_path / "report.html")])
    page = (tmp_path / "report.html").read_text()
    for task, metric in (("sst5", "accuracy"), ("quora", "accuracy"), ("sts", "pearsonr")):
        assert (
            f"<h3>{task}</h3>" in page
            and f"<b>{results[f'test_{task}_{metric}']:.3f}</b>".replace("-", "−") in page
        )
    assert f"is worse than {output}" in page or f"{other} and {output} was found" in page


@pytest.mark.parametrize(
    ("asked", "is_pair", "message"),
    [
        (["sst"], False, "did you mean 'sst5'"),
        (["sts"], False, "--task sts: takes pairs of texts"),
        (["sst5"], True, "--task sst5: takes single texts"),
    ],
)
def test_tasks_that_cannot_be_predicted_are_refused(asked, is_pair, message):
    configs = {"sst5": TaskConfig(labels=["a", "b"]), "sts": TaskConfig(pair=True, problem_type="regression")}
    assert select_tasks(configs, None, is_pair) == (["sts"] if is_pair else ["sst5"])
    with pytest.raises(UserError, match=message):
        select_tasks(configs, asked, is_pair)


def test_the_course_s_prediction_files_are_written_in_its_form(run, folder):
    output, _ = run
    lines = (output / "run" / "predictions" / "para-test-output.csv").read_text().splitlines()
    assert lines[0] == "id \t Predicted_Is_Paraphrase "
    assert [line.split(" , ")[0] for line in lines[1:]] == [f"id2{n}" for n in range(7)]
    assert {line.split(" , ")[1] for line in lines[1:]} <= {"0.0 ", "1.0 "}
    assert (
        (output / "run" / "predictions" / "sst-dev-output.csv")
        .read_text()
        .startswith("id \t Predicted_Sentiment \n")
    )
    rows = read_csv(output / "run" / "predictions" / "sts-predict.csv")
    lines = (output / "run" / "predictions" / "sts-test-output.csv").read_text().splitlines()[1:]
    assert [float(line.split(" , ")[1]) for line in lines] == pytest.approx(
        [float(row["value"]) for row in rows]
    )


def test_the_folder_opens_as_any_other_and_by_task(run):
    output, _ = run
    rows = read_csv(output / "run" / "predictions" / "sst5-test.csv")
    answer = pipeline("text-classification", model=str(output), device="cpu")(
        [row["sentence"] for row in rows]
    )
    assert [entry["label"] for entry in answer] == [row["label"] for row in rows]
    rows = read_csv(output / "run" / "predictions" / "quora-test.csv")
    classifier = pipeline(
        "text-classification", model=str(output), device="cpu", model_kwargs={"task_name": "quora"}
    )
    answer = classifier([{"text": row["sentence1"], "text_pair": row["sentence2"]} for row in rows])
    assert [entry["label"] for entry in answer] == [row["label"] for row in rows]


def test_card_and_mistakes_show_texts_and_figures(run):
    output, _ = run
    card = (output / "README.md").read_text(encoding="utf-8")
    for part in (
        "Task quora: single label classification",
        "Worst mistakes: sts",
        "run/plots/tasks.png",
        "task_name",
    ):
        assert part in card
    mistakes = read_csv(output / "run" / "mistakes" / "sts.csv")
    rows = {
        row["pair"]: float(row["value"]) for row in read_csv(output / "run" / "predictions" / "sts-test.csv")
    }
    distances = [abs(float(row["true"]) - rows[row["pair"]]) for row in mistakes]
    assert distances == pytest.approx(sorted(distances, reverse=True), abs=0.011)
    for plot in ("sst5", "sst5_distributions", "sts", "sts_distributions", "tasks", "training_curves"):
        assert (output / "run" / "plots" / f"{plot}.png").exists()


def test_tasks_left_out_of_training_keep_their_drawn_heads(call, tmp_path):
    call(tmp_path / "run", "--train_tasks", "sst5", num_train_epochs=1, num_task_layers=0)
    trained = load_file(tmp_path / "run" / "model.safetensors")
    rows = re.search(r"\btrain (\d+)", (tmp_path / "run" / "README.md").read_text())
    assert rows is not None and int(rows[1]) < 80, "those of sst5 alone, without a tenth to choose on"
    call(tmp_path / "none", "--train_tasks", "sst5", num_train_epochs=1, num_task_layers=0, learning_rate=0)
    drawn = load_file(tmp_path / "none" / "model.safetensors")
    same = {name for name in trained if torch.equal(trained[name], drawn[name])}
    assert {name for name in trained if name.startswith("heads.")} - same == {
        name for name in trained if name.startswith("heads.sst5")
    }


def test_siamese_tasks_are_trained_on_texts_that_stand_apart(call, tmp_path, folder):
    tasks = json.loads((folder / "tasks.json").read_text())
    tasks["sts"] |= {"pair_encoding": "siamese", "head": "cosine", "sentence_vector": "mean"}
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    results = call(
        tmp_path / "run", tasks_file=tmp_path / "tasks.json", data_dir=folder, task_mixing="together"
    )
    model = CerbertusForMultitask.from_pretrained(tmp_path / "run")
    assert model.config.tasks["sts"]["head"] == "cosine"
    assert np.isfinite(results["test_sts_pearsonr"])


def test_dry_run_counts_parameters_as_the_models_have_them(call, tmp_path, run):
    answer = call(tmp_path / "run", "--dry_run", layer_decay=0.5)
    counts = answer["architectures"]
    assert list(counts) == [
        "multi", "cerbertus-1", "cerbertus-2", "cerbertus-3", "cerbertus-4", "triple", "multi-triple", "multi-static",
    ]  # fmt: skip
    weights = load_file(run[0] / "model.safetensors")
    assert counts["cerbertus-2"]["total"] == sum(value.numel() for value in weights.values())
    assert [row[0] for row in answer["groups"]][:2] == ["embeddings", "embeddings_no_decay"]
    assert sum(int(row[4].replace(",", "")) for row in answer["groups"]) == counts["cerbertus-2"]["total"]
    assert not (tmp_path / "run").exists()


def test_dry_run_on_a_checkpoint_of_ours_and_on_layers_that_cannot_be_copied(call, tmp_path, run):
    again = call(tmp_path / "run", "--dry_run", model_name_or_path=run[0])["architectures"]
    first = call(tmp_path / "run", "--dry_run")["architectures"]
    assert again == first
    albert = AutoModel.from_config(tiny_config("albert"))
    albert.save_pretrained(tmp_path / "albert")
    tiny_tokenizer().save_pretrained(tmp_path / "albert")
    counts = call(tmp_path / "run", "--dry_run", model_name_or_path=tmp_path / "albert", num_task_layers=0)[
        "architectures"
    ]
    assert list(counts) == ["multi", "triple", "multi-triple", "multi-static"]
    weights = albert.num_parameters() - albert.pooler.weight.numel() - albert.pooler.bias.numel()
    assert counts["multi"]["shared"] == weights


def test_a_task_without_a_best_epoch_is_left_out_of_the_best_of_each(call, tmp_path, folder):
    """No validation data, or a correlation that is never defined: what was trained is written all the same."""
    changes = changed(folder, tmp_path, "sst5", train_on_all=True)
    results = call(tmp_path / "run", **changes, num_train_epochs=1, num_task_layers=0)
    assert not (tmp_path / "run" / "best-sst5").exists()
    assert "test_sst5_accuracy" in results and "best_of_each_quora_accuracy" in results
    assert not {"best_of_each_sst5_accuracy", "best_of_each_mean"} & results.keys()


def test_every_task_is_cross_validated_on_folds_of_its_own(call, tmp_path, folder):
    """SST and STS alone, with the development files to choose by: each training row is tested in one fold."""
    tasks = json.loads((folder / "tasks.json").read_text())
    kept = {name: tasks[name] for name in ("sst5", "sts")}
    (folder / "two-tasks.json").write_text(json.dumps(kept))
    options = {"tasks_file": folder / "two-tasks.json", "num_train_epochs": 1}
    summary = call(tmp_path / "run", folds=2, **options)
    assert summary["folds"] == 2
    folds = [tmp_path / "run" / f"fold-{number}" for number in (1, 2)]
    runs = [json.loads((fold / "run" / "all_results.json").read_text()) for fold in folds]
    for name in ("test_mean", "test_sst5_accuracy", "test_sts_pearsonr", "best_of_each_mean"):
        assert summary[name]["mean"] == pytest.approx(np.mean([run[name] for run in runs]))
    for task, stem in (("sst5", "ids-sst"), ("sts", "sts")):
        tested = [
            row[ID_COLUMNS[task]]
            for fold in folds
            for row in read_csv(fold / "run" / "predictions" / f"{task}-test.csv")
        ]
        with open(folder / f"{stem}-train.csv", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t")
            assert sorted(tested) == sorted(row[ID_COLUMNS[task]] for row in rows)
    assert call(tmp_path / "run", "--resume_from_checkpoint", "True", folds=2, **options) == summary


def changed(folder, tmp_path, task, **changes):
    tasks = json.loads((folder / "tasks.json").read_text())
    tasks[task] |= changes
    for name in [name for name, value in tasks[task].items() if value is None]:
        del tasks[task][name]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    return {"tasks_file": tmp_path / "tasks.json", "data_dir": folder}


MISTAKES = {
    "missing key": (
        ("sts", {"train_file": None}),
        {},
        "task 'sts': lacks the key 'train_file' or 'dataset_name'",
    ),
    "unknown key": (("sts", {"lables": []}), {}, "task 'sts': has no key 'lables'"),
    "value of another type": (("sts", {"value_range": "0-5"}), {}, "task 'sts': .*'value_range' .*'0-5'"),
    "file that is no name": (("sts", {"train_file": 3}), {}, "task 'sts': .*'train_file' expected str"),
    "labels that are no names": (("sst5", {"labels": [0, 1]}), {}, "task 'sst5': .*'labels'"),
    "what holds for all tasks": (
        ("sts", {"max_seq_length": 9}),
        {},
        "task 'sts': has no key 'max_seq_length'",
    ),
    "metric of another kind": (
        ("sts", {"metric": "mse"}),
        {},
        "task 'sts': metric must be one of pearsonr, spearmanr, found 'mse'",
    ),
    "pair of one column": (
        ("sst5", {"pair": True}),
        {},
        "task 'sst5': pair must agree with text_pair_column",
    ),
    "course name of two": (("quora", {"course_name": "sst"}), {}, "task 'quora': .* found 'sst' twice"),
    "outside the range": (
        ("sts", {"value_range": [0, 4]}),
        {},
        r"task 'sts': .*row \d+: the label .* lies outside",
    ),
    "no such file": (("quora", {"train_file": "no.csv"}), {}, r"task 'quora': .*no.csv: cannot be read"),
    "unknown label names": (
        ("quora", {"labels": ["a"]}),
        {},
        "task 'quora': .*.labels. must name two or more classes",
    ),
    "head without its pair": (("quora", {"head": "cosine"}), {}, "task 'quora': .*siamese"),
    "course name": (("quora", {"course_name": "qqp"}), {}, "course_name must be one of sst, para, sts"),
    "beyond the depth": (None, {"num_task_layers": 5}, "`num_task_layers` must lie between 0 and 4"),
    "unknown train task": (
        None,
        {"train_tasks": "sst"},
        "--train_tasks must be one of sst5, quora, sts, found 'sst'",
    ),
    "pair order": (None, {"pair_order": "sorted"}, "--pair_order must be one of random, given"),
    "cut": (None, {"cut": "end"}, "cut must be one of tail, head, middle"),
    "format": (
        None,
        {"prediction_format": "kaggle"},
        "--prediction_format must be one of standard, spreadsheet",
    ),
    "Adam of another": (
        None,
        {"decoupled_weight_decay": False, "optim": "sgd"},
        "--decoupled_weight_decay False replaces AdamW by Adam, found --optim sgd",
    ),
    "folds and seeds": (None, {"folds": 2, "seeds": 1}, "--folds and --seeds exclude each other"),
    "folds and test data": (
        ("sts", {"test_file": "sts-dev.csv"}),
        {"folds": 2},
        "task 'sts': --folds reports on the folds of the training data, found test data too",
    ),
    "more tokens than positions": (
        ("sst5", {"train_file": "no.csv"}),
        {"max_seq_length": 65},
        "--max_seq_length must be at most 64, the tokens that",
    ),
    "no room for a token": (
        ("sst5", {"train_file": "no.csv"}),
        {"max_seq_length": 2},
        "--max_seq_length must be above 2",
    ),
    "checkpoint that is not there": (
        ("sst5", {"train_file": "no.csv"}),
        {"resume_from_checkpoint": "nowhere"},
        "checkpoint nowhere: there is no such folder",
    ),
    "no tasks file": (None, {"tasks_file": None}, "--tasks_file must name"),
    "tasks file that is not there": (None, {"tasks_file": "no.json"}, "--tasks_file no.json: cannot be read"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(call, tmp_path, folder, mistake):
    task, changes, message = MISTAKES[mistake]
    if task is not None:
        changes = changes | changed(folder, tmp_path, task[0], **task[1])
    with pytest.raises(UserError, match=message) as caught:
        call(tmp_path / "run", **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_task_that_is_declared_twice_is_not_dropped(tmp_path):
    path = tmp_path / "tasks.json"
    path.write_text('{"sst5": {"train_file": "a.csv"}, "sst5": {"train_file": "b.csv"}}')
    with pytest.raises(UserError, match="'sst5' is repeated"):
        read_tasks_file(str(path))
