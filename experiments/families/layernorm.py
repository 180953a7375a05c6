"""LayerNorm against RMSNorm: does output alignment behave otherwise? ``python -m experiments.families.layernorm``.

Twins that differ in their norms alone (`experiments.families.twins`) are trained; these, and the LayerNorm one re-expressed
with RMSNorm, are quantized under every objective with several calibration draws. All that is done is kept: the same command
goes on where it was stopped, and ``--seeds`` adds twins that were trained from other weights on other text.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import OPTForCausalLM, PreTrainedTokenizerBase

import binllm
from binllm.configuration import compose_run
from binllm.data import calibration_tokens
from binllm.errors import BinllmError
from binllm.evaluation import evaluation_tokens, perplexity
from binllm.models import LoadedModel, load_model
from binllm.schema import build
from binllm.tables.grid import grid, number
from binllm.tracking.atomic import save_tensors, write_json, write_text
from binllm.tracking.progress import RunProgress
from experiments.families.twins import NORMS, WINDOW, reexpressed, told, train, twin

OBJECTIVES = ("weight_align", "output_align", "output_error", "proposed", "interpolated")
REFERENCE = OBJECTIVES[0]
FORMS = {"layernorm": "LayerNorm", "rmsnorm": "RMSNorm, trained", "reexpressed": "RMSNorm, re-expressed"}
DRAWS = 5
ROWS, LENGTH, STEPS = 512, 256, 2000  # of the training text; batches
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


class Texts:
    """What twins are calibrated and measured on, tokenised once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        config = build(compose_run(SETTINGS))
        self._evaluation, self._held_out = config.evaluation, evaluation_tokens(config.evaluation, tokenizer)
        self.draws = [calibration_tokens(config.dataset, tokenizer, seed).ids for seed in range(DRAWS)]

    def perplexity(self, model: OPTForCausalLM) -> float:
        """On held-out stories."""
        return perplexity(model, self._held_out, self._evaluation).value


def study(seeds: Sequence[int], folder: Path, found: Found) -> Iterator[None]:
    """Train and quantize what is not there yet; adds to what is found, and yields after each addition."""
    teller = load_model(build(compose_run(SETTINGS)).model)
    texts = Texts(teller.tokenizer)
    with RunProgress() as progress:
        for seed, form in product(seeds, FORMS):
            model, loss = trained(form if form in NORMS else "layernorm", seed, folder, teller, progress)
            model = model if form in NORMS else reexpressed(model)
            key = {"form": form, "seed": seed}
            if not _has(found["twins"], key):
                found["twins"].append(key | {"loss": loss, "perplexity": texts.perplexity(model)})
                yield
            tasks = [{"objective": one, "draw": draw} for draw in range(DRAWS) for one in OBJECTIVES]
            left = [task for task in tasks if not _has(found["runs"], key | task)]
            with progress.phase(f"quantize {form} {seed}", total=len(left) or None):
                for done, task in enumerate(left, 1):
                    overrides, tokens = [*SETTINGS, f"objective={task['objective']}"], texts.draws[task["draw"]]
                    quantized = copy.deepcopy(model)
                    binllm.quantize(quantized, tokens=tokens, overrides=overrides, progress=False)
                    found["runs"].append(key | task | {"perplexity": texts.perplexity(quantized)})
                    progress.step(done, len(left))
                    yield


def _has(rows: Sequence[Found], key: Found) -> bool:
    return any(key.items() <= row.items() for row in rows)


def ratios(found: Found, form: str, seed: int, objective: str) -> list[float]:
    """Perplexity over that in full precision, by calibration draw."""
    full = next(row["perplexity"] for row in found["twins"] if (row["form"], row["seed"]) == (form, seed))
    key = {"form": form, "seed": seed, "objective": objective}
    rows = [row for row in found["runs"] if key.items() <= row.items()]
    return [row["perplexity"] / full for row in sorted(rows, key=lambda row: row["draw"])]


def gain(found: Found, form: str, seed: int, objective: str) -> float:
    """Mean over draws of ``ln(perplexity / that under weight alignment)``: below 0 the objective is the better one."""
    pairs = zip(ratios(found, form, seed, objective), ratios(found, form, seed, REFERENCE), strict=True)
    return statistics.fmean(math.log(one / other) for one, other in pairs)


def table(found: Found) -> str:
    """The findings in Markdown; sets of twins that are not complete are left out."""
    seeds = sorted({row["seed"] for row in found["twins"] if _complete(found, row["seed"])})
    if not seeds:
        return "No set of twins is complete yet.\n"
    twins = sorted((row for row in found["twins"] if row["seed"] in seeds), key=lambda row: row["seed"])
    full = [[str(row["seed"]), FORMS[row["form"]], f"{row['loss']:.3f}", f"{row['perplexity']:.3f}"] for row in twins]
    before = grid(("twins", "norm", "training loss", "perplexity"), full, ("training loss", "perplexity"))
    headings = ["objective", "twins", *FORMS.values()]
    lines, gains = [], []
    for objective, seed in product(OBJECTIVES, seeds):
        lines.append([f"`{objective}`", str(seed), *(number(ratios(found, form, seed, objective)) for form in FORMS)])
        if objective != REFERENCE:
            by_form = [gain(found, form, seed, objective) for form in FORMS]
            differences = [by_form[0] - other for other in by_form[1:]]
            gains.append([f"`{objective}`", str(seed), *(f"{one:+.4f}" for one in (*by_form, *differences))])
    more = [*headings, "LayerNorm - trained", "LayerNorm - re-expressed"]
    return (
        f"Full precision:\n\n{before}\n\n"
        f"Perplexity over that in full precision, mean ± sample standard deviation of {DRAWS} calibration draws:\n\n"
        f"{grid(headings, lines, headings[2:])}\n\n"
        f"ln(perplexity / perplexity under `{REFERENCE}`), mean of the draws; below 0 the objective is better:\n\n"
        f"{grid(more, gains, more[2:])}\n"
    )


def _complete(found: Found, seed: int) -> bool:
    return sum(row["seed"] == seed for row in found["runs"]) == len(FORMS) * len(OBJECTIVES) * DRAWS


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the study and write ``layernorm.json`` and ``layernorm.md``; returns the exit code."""
    parser = argparse.ArgumentParser(description="LayerNorm against RMSNorm on trained twins.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="sets of twins")
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
