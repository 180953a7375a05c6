"""Names of run folders: content-addressed, so that the same command finds its own folder again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

from binllm.tracking.json_codec import encode

# keys and groups that change no number of a run
LEAVE_OUT = ("paths", "tracker", "plugins", "zero_shot", "streaming", "hydra")


def config_hash(resolved: dict[str, Any], leave_out: Iterable[str] = LEAVE_OUT) -> str:
    """Hash what determines a run's numbers.

    Args:
        resolved: The resolved configuration; the order of its keys does not matter.
        leave_out: Keys that change no number, dotted for nested ones.

    Returns:
        12 hexadecimal digits.
    """
    plain = json.loads(json.dumps(encode(resolved)))
    for key in leave_out:
        *parents, last = key.split(".")
        node = plain
        for parent in parents:
            node = node.get(parent) or {}
        node.pop(last, None)
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def run_name(model: str, objective: str, digest: str) -> str:
    """Make a run folder's name.

    Args:
        model: Model name, hub id or folder; its last part is used.
        objective: Objective name.
        digest: What `config_hash` returned.

    Returns:
        ``<model>-<objective>-<hash>``, safe as a file name everywhere.
    """
    parts = (model.rstrip("/").split("/")[-1], objective)
    slugs = [re.sub(r"[^a-z0-9._]+", "-", part.lower()).strip("-.")[:40] or "unnamed" for part in parts]
    return "-".join((*slugs, digest))
