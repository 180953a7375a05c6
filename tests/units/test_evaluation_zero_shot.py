"""A task's record is what the model's own log-probabilities say, with the levels of guessing beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers_tasks import DOCUMENTS, write_rows

from binllm.evaluation import SEVEN, ZeroShotConfig
from binllm.evaluation.measure import origin_of
from binllm.evaluation.zero_shot import measure_task
from binllm.models import Family, ModelConfig, Source, load_model
from binllm.tracking.measurement_tables import at_chance, seven_task_average
from binllm.tracking.measurements import TaskMeasurement, read_measurement, write_measurement

LOADED = load_model(ModelConfig(name="tiny", source=Source.random, family=Family.llama))
ORIGIN = origin_of(LOADED.model, LOADED.origin, None)
QUERIES = ["Question: one?", "Question: two?", "Question: three?", "Question: four?", "Question: five?"]
ROWS = [
    {"query": query, "choices": ["a dog", "cat", "an old bird"][: 2 + number % 2], "gold": number % 2}
    for number, query in enumerate(QUERIES)
]


@pytest.fixture(autouse=True)
def no_shared_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def measured(folder: Path, task: str, **fields) -> TaskMeasurement:
    config = ZeroShotConfig(name="t", tasks=[task], data=str(folder), **fields)
    return measure_task(LOADED.model, LOADED.tokenizer, task, config, ORIGIN)


def log_probability(context: str, continuation: str) -> float:
    """Summed over the tokens that the continuation adds to the context."""
    encode = LOADED.tokenizer.encode
    first = encode(context)
    ids = torch.tensor([encode(context + continuation)])
    with torch.no_grad():
        logs = torch.log_softmax(LOADED.model(ids).logits[0].double(), -1)
    return sum(logs[place - 1, ids[0, place]].item() for place in range(len(first), ids.shape[1]))


def test_acc_is_the_share_of_questions_whose_right_choice_is_the_likeliest(tmp_path: Path):
    write_rows(tmp_path, "arc_easy", ROWS)
    found = measured(tmp_path, "arc_easy")
    right, normalised = [], []
    for row in ROWS:
        logs = [log_probability(f"{row['query']}\nAnswer:", f" {choice}") for choice in row["choices"]]
        shares = [log / len(choice) for log, choice in zip(logs, row["choices"], strict=True)]
        right.append(float(max(logs) == logs[row["gold"]]))
        normalised.append(float(max(shares) == shares[row["gold"]]))
    assert found.correct == right
    assert found.metrics == {"acc": pytest.approx(sum(right) / 5), "acc_norm": pytest.approx(sum(normalised) / 5)}
    p = sum(right) / 5
    assert found.standard_errors["acc"] == pytest.approx((p * (1 - p) / 4) ** 0.5)
    assert found.examples == 5


def test_guessing_and_a_constant_answer_have_their_levels(tmp_path: Path):
    write_rows(tmp_path, "arc_easy", ROWS)
    found = measured(tmp_path, "arc_easy")
    assert found.chance == pytest.approx((3 * 1 / 2 + 2 * 1 / 3) / 5)
    assert found.constant == pytest.approx(3 / 5)
    write_rows(tmp_path, "winogrande", [DOCUMENTS["winogrande"][0][0] | {"gold": gold} for gold in (1, 1, 1, 0)])
    found = measured(tmp_path, "winogrande")
    assert (found.chance, found.constant) == (0.5, 0.75)


def test_a_batch_changes_nothing_and_a_limit_takes_the_first_examples(tmp_path: Path):
    write_rows(tmp_path, "arc_easy", ROWS)
    whole, batched, limited = (measured(tmp_path, "arc_easy", **one) for one in ({}, {"batch": 3}, {"limit": 2}))
    assert batched.correct == whole.correct and batched.task_hash == whole.task_hash
    assert limited.correct == whole.correct[:2] and limited.examples == 2
    assert limited.name != whole.name and limited.task_hash != whole.task_hash


def test_the_last_word_task_has_a_perplexity(tmp_path: Path):
    write_rows(tmp_path, "lambada_openai")
    found = measured(tmp_path, "lambada_openai")
    log = log_probability("She took the key and opened the", " door")
    assert found.metrics["perplexity"] == pytest.approx(torch.tensor(-log).exp().item(), rel=1e-3)
    assert found.chance == 0.0


def test_a_record_survives_its_file_and_says_what_it_is(tmp_path: Path):
    write_rows(tmp_path, "piqa")
    found = measured(tmp_path, "piqa")
    write_measurement(tmp_path / "records", found)
    assert read_measurement(tmp_path / "records" / found.name) == found
    assert found.source.startswith("local sha256:")
    assert found.origin.versions["lm-eval"] and found.origin.dtype == "float32"
    assert found.prompt["doc_to_text"] == "{{query}}Answer:" and found.prompt["num_fewshot"] == "0"


def made_up(task: str, accuracy: float, error: float) -> TaskMeasurement:
    levels = {"metrics": {"acc": accuracy}, "standard_errors": {"acc": error}, "chance": 0.5, "constant": 0.5}
    names = {"task": task, "source": "hub", "task_version": "1", "task_hash": "", "prompt": {}}
    return TaskMeasurement(origin=ORIGIN, limit=None, examples=1, correct=[], seconds=0.0, **names, **levels)  # type: ignore[arg-type]


def test_the_average_is_of_seven_independent_tasks():
    seven = [made_up(task, 0.3 + 0.1 * number, 0.07) for number, task in enumerate(SEVEN)]
    average = seven_task_average([*seven, made_up("lambada_openai", 0.9, 0.5)])
    assert average == pytest.approx((0.6, 0.07 / 7**0.5, 0.5))
    assert seven_task_average(seven[1:]) is None


def test_an_accuracy_within_two_standard_errors_of_a_guess_is_said_to_be_no_better():
    assert at_chance(0.29, 0.03, 0.25) == "not above chance"
    assert at_chance(0.32, 0.03, 0.25) == ""
