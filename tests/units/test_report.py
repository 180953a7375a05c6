"""The report's words and data: opposite data give the opposite sentence, bad input one line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from helpers_diagnostics import CONFIG, made_up_run

from binllm import tools
from binllm.errors import BinllmError
from binllm.report.ablation import ablations
from binllm.report.comparison import labels, read_comparison
from binllm.report.diagnosis import RULES, Named, compare, diagnose
from binllm.report.facts import facts
from binllm.report.page import render

# factors that turn the made-up run's number to the other side of its threshold
OPPOSITES = {
    "perplexity_ratio": ({}, 40.0),
    "inherited_share": ({"accumulation/new": 9.0}, 100.0),
    "error_gap": ({"stream/conditioned_error": 9.0}, 100.0),
    "token_similarity": ({"stream/output_similarity": 1.5}, 100.0),
    "massive": ({"anisotropy/massive_x": 100.0}, 100.0),
    "conditioned_similarity": ({"stream/conditioned_similarity": 0.5}, 100.0),
    "output_energy": ({"stream/output_energy": 1.4}, 100.0),
    "log_variance": ({"anisotropy/error_log_variance": 0.1}, 100.0),
    "rank_ratio": ({"anisotropy/effective_rank_x_hat": 1.5}, 100.0),
    "cosine_gain": ({"anisotropy/mean_cosine_x_hat": 0.5}, 100.0),
    "total_variation": ({"attention/total_variation": 0.1}, 100.0),
    "naive_wins": ({"block_loss/output_align": 2.0}, 100.0),
}


def said(folder: Path) -> dict[str, str]:
    (subject,) = read_comparison([folder]).subjects
    quantities = {rule.quantity: rule.fact for rule in RULES}
    return {quantities[finding.quantity]: finding.sentence for finding in diagnose(facts(subject))}


@pytest.mark.parametrize("fact", OPPOSITES)
def test_opposite_data_give_the_opposite_sentence(fact: str, tmp_path: Path):
    changed, value = OPPOSITES[fact]
    first, second = said(made_up_run(tmp_path)), said(made_up_run(tmp_path, value=value, changed=changed))
    (rule,) = (rule for rule in RULES if rule.fact == fact)
    sides = {_is(rule.above, one[fact]) for one in (first, second)}
    assert sides == {True, False}
    assert all(_is(rule.above, one[fact]) != _is(rule.below, one[fact]) for one in (first, second))


def _is(template: str, sentence: str) -> bool:
    """Whether a sentence was made from a template."""
    parts = re.split(r"\{x[^}]*\}", template)
    return re.fullmatch(".+".join(map(re.escape, parts)), sentence) is not None


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.fact)
def test_a_rule_turns_at_its_threshold_and_says_the_number(rule):
    above, below = (diagnose({rule.fact: rule.threshold + step})[0] for step in (1e-6, -1e-6))
    assert _is(rule.above, above.sentence) and _is(rule.below, below.sentence)
    assert above.sentence != below.sentence
    assert diagnose({}) == []


def test_facts_are_the_numbers_of_the_table(tmp_path: Path):
    found = facts(read_comparison([made_up_run(tmp_path)]).subjects[0])
    assert found["perplexity_ratio"] == pytest.approx(100 / 35.88)
    assert found["rank_ratio"] == pytest.approx(25 / 40)
    assert found["cosine_gain"] == pytest.approx(0.2)
    assert found["inherited_share"] == pytest.approx((0.4 * 5 / 6 / (0.4 * 5 / 6 + 0.1) + 0.4 / 0.5) / 2)
    assert found["drift"] == pytest.approx(0.9)
    assert found["naive_wins"] == 1.0
    assert "amp_refused" not in found  # nothing was masked


def test_a_comparison_names_the_best_run_or_says_that_it_is_too_near():
    a, b = Named("a", 100.0, {"drift": 0.5}), Named("b", 200.0, {"drift": 0.9})
    assert compare([a, b])[0].sentence.startswith("a has the lowest perplexity, 100.00")
    assert compare([Named("a", 200.0, {}), Named("b", 100.0, {})])[0].sentence.startswith("b has the lowest")
    assert "too near to call" in compare([a, Named("b", 102.0, {})])[0].sentence
    assert compare([a, b])[1].sentence.startswith("Least drift goes with")
    assert compare([Named("a", 100.0, {"drift": 0.9}), b])[1].sentence.startswith("Least drift goes with")
    assert compare([Named("a", 100.0, {"drift": 2.0}), b])[1].sentence.startswith("Least drift does not go with")
    assert compare([a]) == []


def test_labels_say_what_sets_runs_apart():
    base = {"objective.name": "proposed", "solver.period": 1, "seed": 0, "method": "best"}
    other = base | {"objective.name": "weight_align"}
    assert labels([base, other]) == ["proposed", "weight_align"]
    assert labels([base, base | {"solver.period": 5}]) == ["proposed period=1", "proposed period=5"]
    assert labels([base, base | {"method": "billm"}]) == ["proposed", "billm"]
    assert len(set(labels([base, dict(base), dict(base)]))) == 3


def test_ablations_are_runs_that_differ_in_one_choice(tmp_path: Path):
    folders = [made_up_run(tmp_path, table=False, solver={"period": period}) for period in (5, 1, 2)]
    folders += [made_up_run(tmp_path, "weight_align", table=False, solver={"period": 9}, dataset={"length": 64})]
    folders += [made_up_run(tmp_path, value=140.0, table=False, seed=1)]
    (found,) = ablations(read_comparison(folders).subjects)
    assert found.key == "solver.period"
    assert [value for value, _ in found.values] == [1, 2, 5]
    assert [len(runs) for _, runs in found.values] == [2, 1, 1]  # seeds are one value


def test_the_page_is_self_contained_and_holds_every_layer(tmp_path: Path):
    folders = [made_up_run(tmp_path), made_up_run(tmp_path, "weight_align", table=False)]
    page = render(read_comparison(folders))
    assert re.findall(r"""(?:src|href)\s*=\s*["'](?!#|data:)""", page) == []
    assert "@import" not in page and not re.search(r"url\(", page)
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S).group(1))
    assert len(data["rows"]) == 2 * 42
    assert data["runs"][0]["series"]["stream/drift"][""][-1] == [5, 0.9]
    assert "Without diagnostics, so little can be said of: weight_align." in page


def test_the_page_says_nothing_of_the_machines_folders(tmp_path: Path):
    assert "sequences: 16" in (page := render(read_comparison([made_up_run(tmp_path, paths={"results": "/home/me"})])))
    assert "/home/me" not in page


def test_text_of_a_run_cannot_break_out_of_the_page(tmp_path: Path):
    folder = made_up_run(tmp_path, dataset={**CONFIG["dataset"], "corpus": "</script><script>alert(1)</script>"})
    layers = folder / "layers.jsonl"
    layers.write_text(layers.read_text().replace('"solved"', '"</script><b>"'))
    page = render(read_comparison([folder]))
    assert page.count("</script>") == 2
    assert "<b>" not in page


def bad(tmp_path: Path, what: str) -> tuple[list[str], str]:
    """Arguments of binllm-tools with one mistake, and what must be said of it."""
    run = made_up_run(tmp_path / "runs")
    if what == "other model":
        other = made_up_run(tmp_path / "runs", model={"name": "stories260k"})
        return ["report", str(run), str(other)], "different models cannot be compared"
    if what == "unreadable":
        (run / "diagnostics.parquet").write_bytes(b"PAR1 nothing")
        return ["figures", str(run)], "diagnostics.parquet cannot be read as parquet"
    if what == "misspelt metric":
        return ["figures", str(run), "--metrics", "stream/drft"], "did you mean 'stream/drift'?"
    if what == "misspelt figure":
        return ["figures", str(run), "--only", "atention"], "did you mean 'attention'?"
    if what == "no series":
        plain = made_up_run(tmp_path / "runs", table=False)
        return ["figures", str(plain), "--only", "attention"], "no run has attention/kl"
    if what == "twice":
        return ["report", str(run), str(run)], "is given twice"
    if what == "incomplete":
        record = run / "run.json"
        record.write_text(record.read_text().replace('"complete"', '"failed"'))
        return ["report", str(run)], "allowed is a complete run; this one is: failed"
    assert what == "no run"
    return ["report", str(tmp_path)], "this one has no run.json"


@pytest.mark.parametrize(
    "what",
    ["other model", "unreadable", "misspelt metric", "misspelt figure", "no series", "twice", "incomplete", "no run"],
)
def test_bad_input_is_one_line_and_nothing_is_written(what: str, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, message = bad(tmp_path, what)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        tools.main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert sorted(tmp_path.rglob("*")) == before


def test_different_definitions_are_not_compared(tmp_path: Path):
    run, other = made_up_run(tmp_path), made_up_run(tmp_path)
    record = other / "run.json"
    record.write_text(record.read_text().replace("wikitext2/test", "c4/valid"))
    with pytest.raises(BinllmError, match="different definitions"):
        read_comparison([run, other])
