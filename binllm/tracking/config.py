"""Schema of the ``tracker`` configuration group."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class TrackerMode(Enum):
    """How the W&B run is made."""

    offline = "offline"
    online = "online"
    disabled = "disabled"


@dataclass(frozen=True)
class TrackerConfig:
    """What is made of a run's files besides themselves.

    Attributes:
        name: Name of the choice.
        wandb: Whether a W&B run is made from the files at the end of the run.
        mode: offline keeps it in the run folder; online also uploads it; disabled makes none.
        project: W&B project.
        entity: W&B user or team; None for the account's default.
        tags: W&B tags.
    """

    name: str = "files"
    wandb: bool = False
    mode: TrackerMode = TrackerMode.offline
    project: str = "binllm"
    entity: str | None = None
    tags: list[str] = field(default_factory=list)
