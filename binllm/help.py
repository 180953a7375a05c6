"""What ``binllm --help`` prints, read from ``conf/`` alone: nothing is imported that takes seconds."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import yaml

from binllm.yaml_folder import CONF

WIDTH = 118

HEAD = """\
binllm: 1-bit post-training quantization of a language model, from one configuration

usage: binllm [group=option ...] [key=value ...]    one run; the same command resumes it, or finds it done
       binllm -m group=a,b key=1,2,3 ...            a sweep: one run for every combination
       binllm ... --cfg job                         show the whole configuration with every key, and stop

examples:
  binllm                                                    SmolLM2-135M with the best preset
  binllm model=stories260k dataset=tinystories              a small model: seconds
  binllm objective=weight_align
  binllm -m objective=weight_align,output_align,proposed seed=0,1,2
  binllm method=paper evaluation=full objective.alpha=0.5
  binllm model=/a/local/folder dataset=/a/text.jsonl        your own model and text
  binllm model.id=facebook/opt-125m                         any causal language model of the hub
  binllm plugins=[my_objective.py] objective=my_objective   your own objective
  binllm-tools --help                                       everything that is not a run

groups and their options (* is the default):
"""

TAIL = """
other keys: seed, device, threads, calibration.*, paths.results (default results/, or $BINLLM_RESULTS), and the keys of
every option, for example solver.iterations: see --cfg job. `elsewhere` is the objective of the layers that `objective`
leaves out: elsewhere=output_align. Values are Hydra's: lists [a,b], null, quotes; --hydra-help says more."""


def help_text() -> str:
    """Usage, examples, and the options of every group with the first comment of their YAML file."""
    defaults = _defaults()
    groups = [group for group in defaults if (CONF / group).is_dir()]
    indent = 6 + max(len(_option(file)) for file in CONF.rglob("*.yaml"))
    return HEAD + "\n".join(_group(group, defaults[group], indent) for group in groups) + "\n" + TAIL


def _defaults() -> dict[str, str | None]:
    entries = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    return {group: option for entry in entries if isinstance(entry, dict) for group, option in entry.items()}


def _group(group: str, default: str | None, indent: int) -> str:
    lines = [f"  {group}"]
    for file in sorted((CONF / group).rglob("*.yaml")):
        head = f"  {'*' if _option(file) == default else ' '} {_option(file)}"
        words = textwrap.wrap(_about(file), WIDTH - indent) or [""]
        lines.append(f"{head:<{indent}}{words[0]}".rstrip())
        lines += [" " * indent + more for more in words[1:]]
    return "\n".join(lines)


def _option(file: Path) -> str:
    """What is chosen, such as ``best`` or ``ablation/amp``."""
    return "/".join(file.relative_to(CONF).with_suffix("").parts[1:])


def _about(file: Path) -> str:
    """The claim that an experiment tests, the first comment of an option's file, or the model's id on the hub."""
    text = file.read_text(encoding="utf-8")
    claim = re.search(r"^# claim: (.*)$", text, flags=re.MULTILINE)
    if claim:
        return claim.group(1)
    comment = re.search(r"(?:^# (?!@package).*\n)+", text, flags=re.MULTILINE)
    if comment:
        return " ".join(line.removeprefix("# ").strip() for line in comment.group().splitlines())
    content: Any = yaml.safe_load(text)
    return f"from the hub: {content['id']}" if content.get("id") else ""
