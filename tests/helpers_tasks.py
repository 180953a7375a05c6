"""Tiny documents of the zero-shot tasks: as the local files have them, and as the hub's data sets have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from binllm.evaluation.task_files import task_file

QUESTION = "Which of these melts first?"
OPTIONS = ["the ice", "a stone", "iron", "a long word"]
ARC = {"question": QUESTION, "choices": {"label": ["A", "B", "C", "D"], "text": OPTIONS}, "answerKey": "C"}
HELLASWAG: dict[str, Any] = {"activity_label": "Cooking", "endings": ["he eats.", "he sleeps."], "label": "1"}

# task: (rows of the local file, the same documents on the hub)
DOCUMENTS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "arc_easy": ([{"query": f"Question: {QUESTION}", "choices": OPTIONS, "gold": 2}], [ARC]),
    "arc_challenge": ([{"query": f"Question: {QUESTION}", "choices": OPTIONS, "gold": 2}], [ARC]),
    "piqa": (
        [{"query": "Question: How to open a jar?\n", "choices": ["Turn it.", "Eat it."], "gold": 0}],
        [{"goal": "How to open a jar?", "sol1": "Turn it.", "sol2": "Eat it.", "label": 0}],
    ),
    "boolq": (
        [{"query": "Passage: Ice is cold. (Really)\nQuestion: is ice cold?", "choices": ["no", "yes"], "gold": 1}],
        [{"passage": "Ice is cold. (Really)", "question": "is ice cold", "label": 1}],
    ),
    "hellaswag": (
        [
            {
                "query": "Cooking: A man cuts. He smiles. the Other man",
                "choices": ["he eats.", "he sleeps."],
                "gold": 1,
            },
            {"query": "Cooking: How to cook. Take a pot. Heat it.", "choices": ["he eats.", "he sleeps."], "gold": 1},
        ],
        [
            HELLASWAG | {"ctx_a": "A man cuts. He smiles.", "ctx_b": "the Other man"},
            HELLASWAG | {"ctx_a": "[header] How to cook [title] Take a pot. [step] Heat it.", "ctx_b": ""},
        ],
    ),
    "winogrande": (
        [{"context_options": ["Ann was ill so Ann", "Ann was ill so Eve"], "continuation": "left early.", "gold": 0}],
        [{"sentence": "Ann was ill so _ left early.", "option1": "Ann", "option2": "Eve", "answer": "1"}],
    ),
    "openbookqa": (
        [{"query": "Water freezes when", "choices": ["it is cold", "it is hot"], "gold": 0}],
        [{"question_stem": "Water freezes when", "choices": ARC["choices"], "answerKey": "A"}],
    ),
    "lambada_openai": (
        [{"context": "She took the key and opened the", "continuation": "door"}],
        [{"text": "She took the key and opened the door"}],
    ),
}
DOCUMENTS["openbookqa"][1][0]["choices"] = {"label": ["A", "B"], "text": ["it is cold", "it is hot"]}


def write_rows(folder: Path, task: str, rows: list[dict[str, Any]] | None = None) -> Path:
    """Write the local file of a task into a folder.

    Args:
        folder: Which exists.
        task: Of `DOCUMENTS`.
        rows: Other rows than those of `DOCUMENTS`.

    Returns:
        The file.
    """
    file = task_file(task, folder)
    lines = [json.dumps(row) for row in (DOCUMENTS[task][0] if rows is None else rows)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
