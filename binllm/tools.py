"""The command ``binllm-tools``: everything that is not a run.

A sub-command is one function with ``@command``. Its parameters are the command's arguments (one without a default is
positional, one with a default is ``--an-option``), its docstring's first line is the help, and a `BinllmError` is one
line on stderr. Functions import what they need themselves, so that ``--help`` stays quick.
"""

from __future__ import annotations

import argparse
import inspect as introspection
import sys
import typing
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

from binllm.errors import BinllmError, bad_value

PROGRAM = "binllm-tools"
COMMANDS: dict[str, Callable[..., None]] = {}


class Overrides(list[str]):
    """All arguments as they are, also those that begin with a dash: a command line of ``binllm``."""


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function a sub-command of its name."""
    COMMANDS[function.__name__] = function
    return function


@command
def inspect(run: Path) -> None:
    """Print a run's table and its layer records, finished or not; or the bits of a checkpoint, tensor by tensor."""
    from binllm.packing.inspect import is_checkpoint, print_checkpoint
    from binllm.tracking.inspect import print_run

    (print_checkpoint if is_checkpoint(run) else print_run)(run)


@command
def export(
    checkpoint: Path,
    gguf: Path | None = None,
    one_bit: bool = True,
    refuse: bool = False,
    pad: bool = True,
    exact_embeddings: bool = False,
) -> None:
    """Write a checkpoint as a GGUF file for llama.cpp; see docs/llamacpp.md."""
    from binllm.llamacpp import ExportOptions, export_gguf
    from binllm.llamacpp.report import print_export
    from binllm.packing.checkpoint import load_checkpoint

    if gguf is None:
        raise bad_value("--gguf", gguf, "the file to write")
    model, tokenizer = load_checkpoint(checkpoint)
    print_export(export_gguf(model, tokenizer, gguf, ExportOptions(one_bit, refuse, pad, exact_embeddings)))


@command
def generate(checkpoint: Path, prompt: str, tokens: int = 64, kernel: str = "dense", chat: bool = False) -> None:
    """Continue a prompt with a checkpoint, taking the most probable token each time."""
    from binllm.generation import print_continuation

    print_continuation(checkpoint, prompt, tokens, kernel, chat)


@command
def golden(folder: Path) -> None:
    """Compare with the published code of BiLLM and ARB-LLM, case by case, as recorded in a folder of golden vectors."""
    from binllm.golden.report import print_report

    if not print_report(folder):
        raise SystemExit(1)


@command
def diagnose(runs: list[Path], metric: list[str] = []) -> None:  # noqa: B006 read by the parser, never changed
    """Print the diagnostics of runs side by side, all or some metrics: means over the blocks."""
    from binllm.diagnostics.printing import print_diagnoses

    print_diagnoses(runs, metric)


@command
def figures(
    runs: list[Path],
    out: Path | None = None,
    only: list[str] = [],  # noqa: B006 read by the parser, never changed
    metrics: list[str] = [],  # noqa: B006
) -> None:
    """Draw the figures of run folders as SVG and PNG: all that they have the series for.

    --out: folder for the files; <run folder>/figures for one run, figures in the working directory for several.
    --only: names of figures. --metrics: series to draw over depth, such as stream/drift.
    """
    from binllm.figures.making import make_figures
    from binllm.report.comparison import read_comparison

    folder = out or (runs[0] / "figures" if len(runs) == 1 else Path("figures"))
    files, left_out = make_figures(read_comparison(runs), folder, only, metrics)
    for path in files:
        print(f"written: {path}")
    for reason in left_out.values():
        print(f"left out: {reason}")


@command
def report(runs: list[Path], out: Path = Path("report.html")) -> None:
    """Write one self-contained HTML page about a run, or about several side by side."""
    from binllm.report.page import write_page

    write_page(runs, out)
    print(f"written: {out}")


@command
def evaluate(
    place: str,
    texts: list[str] = [],  # noqa: B006
    settings: list[str] = [],  # noqa: B006
    dtype: str | None = None,
    out: Path | None = None,
) -> None:
    """Measure a run, a checkpoint or a full-precision model: perplexity on texts, zero-shot tasks.

    PLACE is a run folder, a checkpoint, a model's folder or an option of the group `model`. TEXTS are wikitext2, c4, ptb,
    corpus/split or local files. SETTINGS are overrides as binllm takes them: evaluation=paper for windows of 2048 tokens,
    zero_shot=all zero_shot.data=FOLDER zero_shot.limit=200. Records go beside what is measured, or into OUT.
    """
    from binllm.evaluation.evaluate import evaluate as measure

    measure(place, texts, settings, dtype, out)


@command
def compare(first: Path, second: Path) -> None:
    """Print how two models differ on the same windows and examples: the second one minus the first.

    Each is a run folder or a folder of records that evaluate wrote.
    """
    from binllm.evaluation.compare import compare as print_differences

    print_differences(first, second)


@command
def collect(results: Path, out: Path = Path("runs.parquet"), reference: str | None = None) -> None:
    """Write all runs below a folder as tidy tables: OUT has a row a run and metric, OUT_summary means and paired tests.

    OUT is a .parquet or .csv file. REFERENCE is the id of the run that others are tested against; the best by default.
    """
    from binllm.collect import collect as write_tables

    write_tables(results, out, reference)


@command
def plan(overrides: Overrides) -> None:
    """List the runs of a command line of binllm: done, partial or missing, time and memory left. Nothing is run.

    OVERRIDES are what binllm takes, -m included: plan -m method=rtn,billm seed=0,1; plan experiment=baselines.
    """
    from binllm.planning import plan as print_plan
    from binllm.planning.runs import State

    if any(job.found.state is State.refused for job in print_plan(overrides)):
        raise SystemExit(2)


@command
def tables(results: Path, out: Path = Path("tables")) -> None:
    """Write the paper's tables and ablations from all runs below a folder, beside the published figures.

    OUT is a folder for Markdown, LaTeX and plots; claims.md says what every claim came to. See docs/ablations.md.
    """
    from binllm.tables.command import tables as write_tables

    for path in write_tables(results, out):
        print(f"written: {path}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. A mistake in the input is one line on stderr and exit code 2.

    Args:
        arguments: Command line without the program's name; that of the process by default.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
            raise bad_value("sub-command", arguments[0], COMMANDS)
        if arguments and not {"-h", "--help"} & set(arguments) and _takes_overrides(arguments[0]):
            COMMANDS[arguments[0]](Overrides(arguments[1:]))
            return
        values = vars(_parser().parse_args(arguments))
        COMMANDS[values.pop("command")](**values)
    except BinllmError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _takes_overrides(name: str) -> bool:
    return Overrides in typing.get_type_hints(COMMANDS[name]).values() if name in COMMANDS else False


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise BinllmError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="Everything that is not a run of binllm.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        about = (command.__doc__ or "").strip()
        added = commands.add_parser(name, help=about.splitlines()[0], description=about)
        hints = typing.get_type_hints(command)
        for parameter in introspection.signature(command).parameters.values():
            _add_argument(added, parameter, hints[parameter.name])
    return parser


def _add_argument(parser: argparse.ArgumentParser, parameter: introspection.Parameter, hint: Any) -> None:
    """Declare one argument from a parameter: str, int, float, Path, Enum, bool (a switch), or a list of them."""
    options: dict[str, Any] = {}
    required = parameter.default is parameter.empty
    members = [one for one in typing.get_args(hint) if one is not type(None)]
    kind = members[0] if members else hint
    if hint is Overrides or typing.get_origin(hint) is list:
        options["nargs"] = "+" if required else "*"
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    else:
        options["type"] = _enum_type(kind) if issubclass(kind, Enum) else kind
        options["metavar"] = parameter.name.upper()
    if not required:
        options["default"] = parameter.default
    parser.add_argument(parameter.name if required else f"--{parameter.name.replace('_', '-')}", **options)


def _enum_type(kind: type[Enum]) -> Callable[[str], Enum]:
    def convert(text: str) -> Enum:
        if text not in kind.__members__:
            raise argparse.ArgumentTypeError(f"{text} is none of {', '.join(kind.__members__)}")
        return kind[text]

    return convert
