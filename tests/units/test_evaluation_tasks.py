"""The tasks over local files ask what lm-eval's own tasks ask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from helpers_tasks import DOCUMENTS, write_rows
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from binllm.errors import BinllmError
from binllm.evaluation import TASKS, ZeroShotConfig
from binllm.evaluation.task_files import check_files, local_task
from binllm.evaluation.zero_shot import check_zero_shot

OWN = {
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "piqa": "piqa/piqa.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "winogrande": "winogrande/default.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "lambada_openai": "lambada/lambada_openai.yaml",
}


@pytest.fixture(autouse=True)
def no_shared_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def own_task(name: str, documents: list[dict[str, Any]], folder: Path) -> ConfigurableTask:
    """lm-eval's definition as the package ships it, with nothing but its data set replaced by a file."""
    definition = load_yaml(Path(lm_eval.__file__).parent / "tasks" / OWN[name])
    split = definition["test_split"] if definition.get("test_split") else definition["validation_split"]
    file = folder / "hub.jsonl"
    file.write_text("\n".join(map(json.dumps, documents)) + "\n", encoding="utf-8")
    for unused in ("tag", "training_split", "validation_split", "test_split", "dataset_name"):
        definition.pop(unused, None)
    files = {"dataset_path": "json", "dataset_kwargs": {"data_files": {split: str(file)}}, "test_split": split}
    return ConfigurableTask(config=definition | files)


def requests(task: ConfigurableTask) -> list[tuple]:
    """What the model is asked, in order: document, context, continuation, and the right answer."""
    task.set_config(key="num_fewshot", value=0)
    task.build_all_requests(limit=None, rank=0, world_size=1)
    right = [task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc) for doc in task.eval_docs]
    return [(one.doc_id, *one.args, right[one.doc_id]) for one in task.instances]


@pytest.mark.parametrize("name", TASKS)
def test_a_local_task_asks_what_lm_evals_own_task_asks(name: str, tmp_path: Path):
    local, hub = DOCUMENTS[name]
    write_rows(tmp_path, name)
    check_files([name], tmp_path)
    ours, own = ConfigurableTask(config=local_task(name, tmp_path)), own_task(name, hub, tmp_path)
    assert requests(ours) == requests(own)
    assert len(requests(ours)) >= len(local)
    for field in ("output_type", "target_delimiter", "metric_list", "repeats"):
        mine, theirs = getattr(ours.config, field), getattr(own.config, field)
        if field == "metric_list":
            mine, theirs = [[one["metric"] for one in metrics] for metrics in (mine, theirs)]
        assert mine == theirs, field
    assert ours.VERSION == own.VERSION


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        (
            "arc_easy",
            {"query": "a", "choices": ["b"]},
            "row 2: the field 'gold' is missing; the row has query, choices",
        ),
        ("arc_easy", {"query": "a", "choices": [], "gold": 0}, "row 2: the field 'choices' must be of type list, not"),
        ("piqa", {"query": "a", "choices": ["b", "c"], "gold": 2}, "row 2: gold = 2: allowed are 0 to 1"),
        ("winogrande", {"context_options": ["a", "b"], "gold": 0}, "row 2: the field 'continuation' is missing"),
        ("lambada_openai", {"context": "a", "continuation": 1}, "row 2: the field 'continuation' must be of type str"),
    ],
)
def test_a_row_without_its_fields_is_named(tmp_path: Path, task: str, row: dict[str, Any], message: str):
    file = write_rows(tmp_path, task, [DOCUMENTS[task][0][0], row])
    with pytest.raises(BinllmError) as raised:
        check_zero_shot(ZeroShotConfig(name="t", tasks=[task], data=str(tmp_path)))
    assert str(raised.value).startswith(f"{file}, {message}")


@pytest.mark.parametrize("line", [b"{", b'{"query": "caf\xe9"}'], ids=["cut", "Latin-1"])
def test_a_line_that_is_not_json_is_named(tmp_path: Path, line: bytes):
    file = write_rows(tmp_path, "piqa")
    file.write_bytes(file.read_bytes() + line + b"\n")
    with pytest.raises(BinllmError, match=r"piqa_val\.jsonl, row 2: is not JSON in UTF-8"):
        check_files(["piqa"], tmp_path)


def test_missing_data_is_named(tmp_path: Path):
    with pytest.raises(BinllmError, match=r"zero_shot\.data = .*: allowed is a folder with boolq_val\.jsonl"):
        check_files(["boolq"], tmp_path)
    with pytest.raises(BinllmError, match=r"zero_shot\.data = .*none: allowed is an existing folder, or null"):
        check_files(["boolq"], tmp_path / "none")


def test_an_unknown_task_is_refused_with_the_nearest_name():
    with pytest.raises(BinllmError, match=r"zero_shot\.tasks = arc_esy: allowed are .*; did you mean 'arc_easy'\?"):
        ZeroShotConfig(name="t", tasks=["arc_esy"])
    with pytest.raises(BinllmError, match=r"zero_shot\.limit = 0"):
        ZeroShotConfig(name="t", limit=0)


def test_a_hub_that_cannot_be_reached_is_said_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch):
    def unreachable(*_: object, **__: object):
        raise ConnectionError("no route to the hub\nand more")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(BinllmError, match=r"^zero_shot\.data = None: allowed is a folder .*\(no route to the hub\)$"):
        check_zero_shot(ZeroShotConfig(name="t", tasks=["arc_easy"]))
