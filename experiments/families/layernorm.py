"""LayerNorm against RMSNorm: does output alignment behave otherwise? ``python -m experiments.families.layernorm``.

Twins that differ in their norms alone (`experiments.families.twins`) are trained, and each is quantized under every
objective with several calibration draws. All that is done is kept: the same command goes on where it was stopped, and
``--seeds`` adds pairs of twins that were trained from other weights on other text.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import OPTForCausalLM

import binllm
from binllm.configuration import compose_run
from binllm.errors import BinllmError
from binllm.evaluation import evaluation_tokens, perplexity
from binllm.models import LoadedModel, load_model
from binllm.schema import build
from binllm.tracking.atomic import save_tensors, write_json, write_text
from binllm.tracking.progress import RunProgress
from experiments.common.markdown import grid, number
from experiments.families.twins import NORMS, WINDOW, told, train, twin

OBJECTIVES = ("weight_align", "output_align", "output_error", "proposed", "interpolated")
REFERENCE = OBJECTIVES[0]
DRAWS = 5
ROWS, LENGTH, STEPS = 1024, 256, 300  # of the training text; batches
SETTINGS = (
    "model=stories260k", "method=null", "binarization=row_column_groups", "diagnostics=none", "dataset=tinystories",
    "dataset.sequences=32", f"dataset.length={WINDOW}", f"evaluation.window={WINDOW}", "evaluation.windows=80",
)  # fmt: skip
Found = dict[str, Any]  # what layernorm.json holds: the twins, and a row a quantization


def stories(seed: int, folder: Path, teller: LoadedModel, progress: RunProgress) -> Tensor:
    """The text that twins are trained on (tokens,), from the folder if it is there."""
    file = folder / f"stories-{seed}.safetensors"
    if not file.exists():
        with progress.phase(f"text {seed}"):
            save_tensors(file, {"ids": told(teller.model, ROWS, LENGTH, seed)})
    return load_file(file)["ids"]


def trained(
    norm: str, seed: int, folder: Path, teller: LoadedModel, progress: RunProgress
) -> tuple[OPTForCausalLM, float]:
    """A trained twin and its last training loss, from the folder if it is there."""
    file, model = folder / f"{norm}-{seed}.safetensors", twin(norm, seed)
    if not file.exists():
        text = stories(seed, folder, teller, progress)
        with progress.phase(f"train {norm} {seed}", total=STEPS):
            loss = train(model, teller.model, text, STEPS, seed, progress.step)
        save_tensors(file, model.state_dict() | {"loss": torch.tensor(loss)})
    state = load_file(file)
    loss = float(state.pop("loss"))
    model.load_state_dict(state)
    return model.requires_grad_(False).eval(), loss


def measured(model: OPTForCausalLM, teller: LoadedModel) -> float:
    """Perplexity on the held-out stories."""
    config = build(compose_run(SETTINGS)).evaluation
    return perplexity(model, evaluation_tokens(config, teller.tokenizer), config).value


def study(seeds: Sequence[int], folder: Path, found: Found) -> Iterator[None]:
    """Train and quantize what is not there yet; adds to what is found, and yields after each addition."""
    teller = load_model(build(compose_run(SETTINGS)).model)
    with RunProgress() as progress:
        for seed, norm in ((seed, norm) for seed in seeds for norm in NORMS):
            model, loss = trained(norm, seed, folder, teller, progress)
            key = {"norm": norm, "seed": seed}
            if not _has(found["twins"], key):
                found["twins"].append(key | {"loss": loss, "perplexity": measured(model, teller)})
                yield
            tasks = [{"objective": one, "draw": draw} for draw in range(DRAWS) for one in OBJECTIVES]
            left = [task for task in tasks if not _has(found["runs"], key | task)]
            with progress.phase(f"quantize {norm} {seed}", total=len(left) or None):
                for done, task in enumerate(left, 1):
                    overrides = [*SETTINGS, f"objective={task['objective']}", f"seed={task['draw']}"]
                    quantized = copy.deepcopy(model)
                    binllm.quantize(quantized, teller.tokenizer, overrides=overrides, progress=False)
                    found["runs"].append(key | task | {"perplexity": measured(quantized, teller)})
                    progress.step(done, len(left))
                    yield


def _has(rows: Sequence[Found], key: Found) -> bool:
    return any(key.items() <= row.items() for row in rows)


def ratios(found: Found, norm: str, seed: int, objective: str) -> list[float]:
    """Perplexity over that in full precision, by calibration draw."""
    full = next(row["perplexity"] for row in found["twins"] if (row["norm"], row["seed"]) == (norm, seed))
    runs = sorted(
        (row for row in found["runs"] if (row["norm"], row["seed"]) == (norm, seed)), key=lambda row: row["draw"]
    )
    return [row["perplexity"] / full for row in runs if row["objective"] == objective]


def gain(found: Found, norm: str, seed: int, objective: str) -> float:
    """Mean over draws of ``ln(perplexity / that under weight alignment)``: below 0 the objective is the better one."""
    pairs = zip(ratios(found, norm, seed, objective), ratios(found, norm, seed, REFERENCE), strict=True)
    return statistics.fmean(math.log(one / other) for one, other in pairs)


def table(found: Found) -> str:
    """The findings in Markdown; pairs of twins that are not complete are left out."""
    seeds = sorted({row["seed"] for row in found["twins"] if _complete(found, row["seed"])})
    if not seeds:
        return "No pair of twins is complete yet.\n"
    names = {"layernorm": "LayerNorm", "rmsnorm": "RMSNorm"}
    full = [
        [str(row["seed"]), names[row["norm"]], f"{row['loss']:.3f}", f"{row['perplexity']:.3f}"]
        for row in sorted(found["twins"], key=lambda row: (row["seed"], row["norm"]))
        if row["seed"] in seeds
    ]
    lines = []
    for objective in OBJECTIVES:
        for seed in seeds:
            cells = [number(ratios(found, norm, seed, objective)) for norm in NORMS]
            gains = [gain(found, norm, seed, objective) for norm in NORMS]
            shown = ["-"] * 3 if objective == REFERENCE else [f"{one:+.3f}" for one in (*gains, gains[0] - gains[1])]
            lines.append([f"`{objective}`", str(seed), *cells, *shown])
    headings = ("objective", "twins", "ratio, LayerNorm", "ratio, RMSNorm")
    headings += ("ln vs. weights, LayerNorm", "ln vs. weights, RMSNorm", "difference")
    twins = grid(("twins", "norm", "training loss", "perplexity"), full, ("training loss", "perplexity"))
    return f"{twins}\n\n{grid(headings, lines, headings[2:])}\n"


def _complete(found: Found, seed: int) -> bool:
    return sum(row["seed"] == seed for row in found["runs"]) == len(NORMS) * len(OBJECTIVES) * DRAWS


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the study and write ``layernorm.json`` and ``layernorm.md``; returns the exit code."""
    parser = argparse.ArgumentParser(description="LayerNorm against RMSNorm on trained twins.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="pairs of twins")
    parser.add_argument("--out", type=Path, default=Path("results/families"), help="folder of results and weights")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        (options.out / "twins").mkdir(parents=True, exist_ok=True)
        file = options.out / "layernorm.json"
        found: Found = json.loads(file.read_text()) if file.exists() else {"twins": [], "runs": []}
        for _ in study(options.seeds, options.out / "twins", found):
            write_json(file, found)
        write_text(options.out / "layernorm.md", table(found))
    except (BinllmError, OSError, ValueError) as error:
        print(f"layernorm: error: {error}", file=sys.stderr)
        return 2
    print(f"{table(found)}\nwritten: {options.out / 'layernorm.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
