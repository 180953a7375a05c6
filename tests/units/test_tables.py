"""Tables of claims: the verdict follows the data, published figures stay apart, and what cannot be used is named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from helpers_runs import bits_record, perplexity, write_run
from omegaconf import OmegaConf

from binllm import published
from binllm.collect.paired import paired_over_seeds
from binllm.configuration import compose_run
from binllm.tables.ablation_tables import p_text
from binllm.tables.claims import claims, read_claim
from binllm.tables.grid import Grid
from binllm.tables.sweeps import labels
from binllm.tables.texts import text_of
from binllm.tools import main
from binllm.tracking.records import RunStatus

WIKITEXT = "wikitext2/test/window=512/stride=512/windows=20/bos=none/gptq"


@cache
def settings(*overrides: str) -> Any:
    """A composed configuration as plain values, in the form that a run folder has it."""
    text = OmegaConf.to_yaml(compose_run(["experiment=ablation/amp", *overrides]), resolve=True)
    return OmegaConf.to_container(OmegaConf.create(text))


def add(
    results: Path, values: Sequence[float], overrides: Sequence[str] = (), text: str = WIKITEXT, **fields: Any
) -> list[Path]:
    """A run for every value, with seeds from 0."""
    folders = []
    for seed, value in enumerate(values):
        config = settings(*overrides) | {"seed": seed}
        measured = (perplexity(35.0, text), perplexity(value, text))
        folders.append(write_run(results, config, measured, bits_record(2.5), **fields))
    return folders


OFF = ["objective.amp_rule=off"]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def made(results: Path) -> dict[str, str]:
    """The files of ``binllm-tools tables`` that are text, by name."""
    out = results.parent / "out"
    main(["tables", str(results), "--out", str(out)])
    return {file.name: file.read_text() for file in out.iterdir() if file.suffix in (".md", ".tex")}


def found(files: dict[str, str], experiment: str) -> str:
    """What the summary says that a claim came to."""
    (line,) = (line for line in files["claims.md"].splitlines() if line.startswith(f"| {experiment} |"))
    return line.split("|")[-2].strip()


CASES = {
    "holds": ([100.0, 110.0, 121.0], [120.0, 131.0, 146.0]),
    "does not hold": ([120.0, 131.0, 146.0], [100.0, 110.0, 121.0]),
    "undecided": ([100.0, 131.0, 121.0], [120.0, 110.0, 122.0]),
}


@pytest.mark.parametrize("verdict", CASES)
def test_opposite_data_give_the_opposite_verdict(verdict: str, results: Path):
    with_amp, without = CASES[verdict]
    add(results, with_amp)
    add(results, without, OFF)
    files = made(results)
    assert found(files, "ablation/amp") == f"**{verdict}**"
    assert f"`agree < off`: {verdict} (ratio " in files["ablation_amp.md"]
    assert (results.parent / "out" / "ablation_amp.svg").exists()
    assert found(files, "ablation/target") == "not run", "the reference runs are a setting of it too, but only one"


def test_every_expected_difference_has_a_line_and_every_model_a_column(results: Path):
    add(results, [100.0, 110.0, 120.0])
    add(results, [125.0, 137.5, 150.0], OFF)
    add(results, [210.0, 220.0, 230.0], ["model=stories260k"])
    add(results, [105.0, 110.0, 115.0], ["model=stories260k", *OFF])
    lines = [line for line in made(results)["ratios.md"].splitlines() if line.startswith("|")]
    assert lines[0] == "| claim | varied | expected | smollm2 | stories260k |"
    (line,) = lines[2:]
    assert line.strip("| ").split(" | ")[1:] == [
        "`objective.amp_rule`",
        "`agree < off`",
        "**holds**, 0.800 (0.800 to 0.800)",
        "**does not hold**, 2.000 (2.000 to 2.000)",
    ]


@pytest.mark.parametrize(("own", "home", "other"), [("", "roles", "roles_fused"), ("qkv", "roles_fused", "roles")])
def test_settings_that_two_experiments_share_are_shown_once(own: str, home: str, other: str, results: Path):
    add(results, [100.0, 110.0, 120.0])
    add(results, [50.0, 55.0, 60.0], ["objective.roles=[all]"])
    if own:
        add(results, [150.0, 160.0, 170.0], [f"objective.roles=[{own}]"])
    files = made(results)
    assert "`last < all`: does not hold (ratio 2.000" in files[f"ablation_{home}.md"]
    assert found(files, f"ablation/{home}") == "**does not hold**"
    assert found(files, f"ablation/{other}") == "not run"


def test_two_seeds_decide_nothing(results: Path):
    add(results, [100.0, 110.0])
    add(results, [200.0, 220.0], OFF)
    files = made(results)
    assert found(files, "ablation/amp") == "**undecided**"
    assert "2 common seeds, 3 needed" in files["ablation_amp.md"]


def test_an_order_among_guesses_decides_nothing(results: Path):
    for folder in [*add(results, CASES["holds"][0]), *add(results, CASES["holds"][1], OFF)]:
        (folder / "checkpoint").mkdir()
        (folder / "checkpoint" / "config.json").write_text('{"vocab_size": 105}')
    files = made(results)
    assert found(files, "ablation/amp") == "**undecided**"
    assert "| `agree` | 3 | 110.33 ± 10.50 ‡ |" in files["ablation_amp.md"]


def test_a_line_has_mean_deviation_and_the_paired_ratio(results: Path):
    add(results, [100.0, 110.0, 120.0])
    add(results, [200.0, 220.0, 240.0], OFF)
    lines = made(results)["ablation_amp.md"].splitlines()
    (agree,) = (line for line in lines if line.startswith("| `agree`"))
    (off,) = (line for line in lines if line.startswith("| `off`"))
    (heading,) = (line for line in lines if line.startswith("| `objective.amp_rule` | seeds | perplexity |"))
    assert heading.endswith("| p | nominal bits | stored bits | quantize, s |")
    assert agree.startswith("| `agree` | 3 | 110.00 ± 10.00 | - | - | 1.000 | 2.500 |")
    assert off.startswith("| `off` | 3 | 220.00 ± 20.00 | 2.000 (2.000 to 2.000) |")


def test_the_interval_is_student_s():
    # differences 1, 2, 3: mean 2, standard error 1 / sqrt 3, and t with 2 degrees of freedom is 4.3027 at 97.5 %
    paired = paired_over_seeds({0: 2.0, 1: 4.0, 2: 6.0, 9: 0.0}, {0: 1.0, 1: 2.0, 2: 3.0})
    assert paired is not None and paired.seeds == 3
    assert (paired.low, paired.high) == (pytest.approx(2 - 4.302653 / 3**0.5), pytest.approx(2 + 4.302653 / 3**0.5))


def test_a_p_value_is_never_printed_as_zero():
    assert [p_text(value) for value in (0.0494, 0.001, 0.00099, 1e-9)] == ["0.049", "0.001", "<0.001", "<0.001"]


def test_published_figures_and_ours_have_columns_of_their_own(results: Path):
    add(results, [21.0, 22.0, 23.0], ["model=llama2_7b"])
    files = made(results)
    heading, _, *lines = (line for line in files["table3.md"].splitlines() if line.startswith("|"))
    assert [cell.split(":")[0] for cell in heading.strip("| ").split(" | ")][2:] == [
        "published",
        "published",
        "ours",
        "ours",
    ]
    cells = {tuple(line.strip("| ").split(" | ")[:2]): line.strip("| ").split(" | ")[2:] for line in lines}
    assert cells["llama-2-7b", "on"] == ["19.25", "15.42", "22.00 ± 1.00", "3"]
    assert cells["llama-2-7b", "off"] == ["29.12", "26.24", "-", "-"]
    assert cells["opt-6.7b", "on"] == ["16.22", "14.56", "-", "-"]
    assert "No model of it was run here." in files["table1.md"]
    assert "| llama-2-7b | proposed | 19.25 | 15.42 | 3,166.00 | 22.00 ± 1.00 | 3 |" in files["table2.md"]
    assert found(files, "ablation/amp") == "not run", "one setting is no comparison"


def test_every_published_figure_is_in_a_table(results: Path):
    files = made(results)
    printed = [one.perplexity for one in published.perplexities()]
    assert len(printed) == 144 and len(published.accuracies()) == 25 and len(published.ablations()) == 8
    both = files["table1.md"] + files["table2.md"]
    for value in printed:
        assert f" {value:,.2f} |" in both
    assert all(f" {one.accuracy:.2f} |" in files["table1.md"] for one in published.accuracies())
    assert found(files, "ablation/amp") == "not run"


def test_a_sample_of_c4_is_not_called_c4(results: Path):
    local = "text:c4_en_sample_b_1000.jsonl:0123456789ab/window=512/stride=512/windows=20/bos=none/gptq"
    add(results, [100.0, 110.0, 121.0], text=local)
    add(results, [100.0], OFF, text=local)
    table = made(results)["ablation_amp.md"]
    assert "perplexity on C4 sample b (20 windows of 512 tokens)" in table
    assert text_of("c4/validation/window=2048/stride=2048/windows=256/bos=none/gptq") == "C4"
    assert text_of("c4_sample_a/train/window=512/stride=512/windows=20/bos=none/gptq") == "C4 sample a"
    assert text_of(WIKITEXT) == "WikiText-2"
    assert text_of("wikitext2/valid/window=512/stride=512/windows=20/bos=none/gptq") == "WikiText-2 valid"


def test_what_cannot_be_used_is_named_and_left_out(results: Path, capsys: pytest.CaptureFixture[str]):
    add(results, [100.0, 110.0, 121.0])
    add(results, [100.0], OFF)
    failed = add(results, [1.0], status=RunStatus.failed, error="ValueError: no")[0]
    half = add(results, [1.0], status=RunStatus.running)[0]
    old = add(results, [1.0])[0]
    record = json.loads((old / "run.json").read_text())
    (old / "run.json").write_text(json.dumps(record | {"version": 0}))
    table = made(results)
    assert "| `agree` | 3 | 110.33 ± 10.50 |" in table["ablation_amp.md"]
    told = capsys.readouterr().err
    for folder, word in ((failed, "failed"), (half, "interrupted"), (old, "unreadable")):
        assert f"left out, {word}: {folder}" in told
        assert f"Left out: {folder.name}, {word}." in table["claims.md"]


def test_runs_of_one_id_by_different_code_are_not_averaged(results: Path):
    add(results, [100.0], OFF)
    folders = add(results, [100.0, 110.0, 121.0, 1000.0])
    record = json.loads((folders[3] / "run.json").read_text())
    record["run_id"] = folders[2].name
    record["provenance"]["git_commit"] = "f" * 40
    (folders[3] / "run.json").write_text(json.dumps(record))
    assert "| `agree` | 2 | 105.00 ± 7.07 |" in made(results)["ablation_amp.md"]


def test_one_configuration_with_two_results_is_used_neither_way(results: Path, capsys: pytest.CaptureFixture[str]):
    add(results, [100.0], OFF)
    add(results, [100.0, 110.0, 121.0])
    add(results, [105.0])
    assert "| `agree` | 2 | 115.50 ± 7.78 |" in made(results)["ablation_amp.md"]
    assert "one configuration and seed, different results, none is used" in capsys.readouterr().err


def test_another_protocol_is_another_section_and_another_method_is_in_none(
    results: Path, capsys: pytest.CaptureFixture[str]
):
    signed = ["objective.amp_rule=signed"]
    for protocol in ([], ["protocol=light"]):
        add(results, [100.0, 110.0, 121.0], protocol)
        add(results, [200.0, 210.0, 221.0], [*signed, *protocol])
    add(results, [300.0, 310.0, 321.0], [*OFF, "protocol=light"])
    add(results, [1.0], ["objective.tempering=0.5"])
    files = made(results)
    assert files["ablation_amp.md"].count("**undecided**") == files["ablation_amp.md"].count("**holds**") == 1
    assert "8 x 256 tokens" in files["ablation_amp.md"] and "16 x 512 tokens" in files["ablation_amp.md"]
    assert "left out: 1 complete runs that are no setting" in capsys.readouterr().err


def test_every_header_names_settings_that_its_overlay_sweeps():
    wanted = "amp target alpha roles period iterations calibration_size corpus block_size shrinkage"
    assert {f"ablation/{name}" for name in wanted.split()} | {"table1", "table2", "phi3", "quantization_time"} <= {
        claim.experiment for claim in claims()
    }
    for claim in claims():
        assert len(labels(claim)) > 1
    assert read_claim("objectives") is None


def test_latex_has_its_own_signs():
    text = Grid("a_b", ["`x_y`", "ours"], [["50 % & more", "1.00 ± 0.10"]], ["ours"]).latex()
    assert r"\caption{a\_b}" in text and r"\texttt{x\_y} & ours \\" in text
    assert r"50 \% \& more & 1.00 $\pm$ 0.10 \\" in text and r"\begin{tabular}{lr}" in text
