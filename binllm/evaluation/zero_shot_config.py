"""Which zero-shot tasks, over which data: the typed form of ``conf/zero_shot/*.yaml``."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from binllm.errors import bad_value
from binllm.tracking.measurement_tables import SEVEN

TASKS = (*SEVEN, "lambada_openai")  # the seven of the published average, and LAMBADA


@dataclass(frozen=True)
class ZeroShotConfig:
    """Zero-shot tasks by lm-eval. They change no number of a run, so they are no part of its name.

    Attributes:
        name: Short name of the configuration.
        tasks: Names of `TASKS`; none means that nothing is measured.
        data: Folder of jsonl files as `binllm.evaluation.task_files` names them; null means lm-eval's own data sets
            from the hub.
        limit: Only the first so many examples of each task; null means all.
        batch: Requests in one forward pass.
    """

    name: str = MISSING
    tasks: list[str] = field(default_factory=list)
    data: str | None = None
    limit: int | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        """Check names and numbers.

        Raises:
            BinllmError: An unknown task, or a number below 1.
        """
        for task in self.tasks:
            if task not in TASKS:
                raise bad_value("zero_shot.tasks", task, TASKS)
        for key in ("limit", "batch"):
            number = getattr(self, key)
            if number is not None and number < 1:
                raise bad_value(f"zero_shot.{key}", number, "a number of at least 1")
