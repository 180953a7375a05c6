"""Every option composes into checked objects, and what is no option is refused by name when composed."""

from __future__ import annotations

from dataclasses import is_dataclass
from itertools import zip_longest
from pathlib import Path

import pytest
import yaml

from binllm.configuration import compose_run, rewrite
from binllm.errors import BinllmError
from binllm.identity import ALGORITHMS, identify
from binllm.objectives import OutputAlign, Proposed, WeightAlign
from binllm.plan import Precision
from binllm.registry import version_of
from binllm.schema import GROUPS, RunConfig, build
from binllm.tracking.naming import LEAVE_OUT, config_hash
from binllm.yaml_folder import CONF

PATHS = {"model=folder": "model.path=/tmp", "dataset=text": "dataset.path=/tmp/a.txt", "model=hub": "model.id=a/b"}
FILES = {
    folder.name: sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml"))
    for folder in CONF.iterdir()
    if folder.is_dir()
}
KINDS = ("method", "experiment", "protocol", "debug")  # overlays: their options set keys of any group
# every option of every group is in one of these, so that not each of them costs a composition of its own
PLAIN = {group: names for group, names in FILES.items() if group not in KINDS}
TOGETHER = [
    [f"{group}={name or PLAIN[group][0]}" for group, name in zip(PLAIN, chosen, strict=True)]
    for chosen in zip_longest(*PLAIN.values())
]
OVERLAYS = [f"{group}={name}" for group in KINDS for name in FILES[group]]


def built(*overrides: str) -> RunConfig:
    return build(compose_run(overrides))


@pytest.mark.parametrize("chosen", TOGETHER, ids=lambda chosen: chosen[0])
def test_every_option_of_every_group_builds(chosen: list[str]):
    config = built(*chosen, *(PATHS[choice] for choice in chosen if choice in PATHS))
    for group, choice in (choice.split("=") for choice in chosen):
        assert is_dataclass(getattr(config, group)), choice
        name = getattr(config, group).name
        assert getattr(name, "value", name) == choice, "an option's name is that of its file"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_builds(overlay: str):
    config = built(overlay)
    group, name = overlay.split("=")
    assert group != "method" or config.method == name
    assert all(is_dataclass(getattr(config, group)) for group in GROUPS)


@pytest.mark.parametrize("file", sorted(CONF.glob("*/**/*.yaml")), ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_file_of_a_group_takes_its_types_from_a_schema(file: Path):
    content = yaml.safe_load(file.read_text())
    overlay = file.read_text().startswith("# @package _global_")
    assert overlay or content["defaults"][0].startswith("schema_"), "its keys would go unchecked"


def test_no_method_is_a_choice():
    config = built("method=null", "objective=proposed")
    assert (config.method, type(config.objective)) == ("none", Proposed)


@pytest.mark.parametrize(
    "words", [["objective=weight_align", "method=best"], ["method=paper", "objective=weight_align"]]
)
def test_the_command_line_wins_over_a_method(words: list[str]):
    assert isinstance(built(*words).objective, WeightAlign)


def test_the_command_line_wins_over_a_debug_overlay():
    config = built("debug=tiny", "model=tiny_opt", "dataset.sequences=3")
    assert (config.model.name, config.dataset.sequences, config.dataset.length) == ("tiny_opt", 3, 64)


def test_the_other_layers_have_an_objective_of_their_own():
    config = built("objective=proposed", "elsewhere=output_align", "elsewhere.alpha=0.5")
    assert isinstance(config.elsewhere, OutputAlign)
    assert (config.elsewhere.alpha, config.objective.alpha) == (0.5, 1.0)


def test_evaluation_follows_the_dataset_unless_told_otherwise():
    assert built("dataset=tinystories").evaluation.corpus == "tinystories"
    assert built("dataset=tinystories", "evaluation.corpus=wikitext2").evaluation.corpus == "wikitext2"


def test_the_results_folder_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BINLLM_RESULTS", "/a/disk")
    assert built().paths.results == "/a/disk"
    assert built("paths.results=here").paths.results == "here"
    monkeypatch.delenv("BINLLM_RESULTS")
    assert built().paths.results == "results"


def test_local_paths_stand_where_a_name_would(tmp_path: Path):
    odd = tmp_path / "it's a = (strange), [name]"
    odd.mkdir()
    (odd / "text.txt").write_text("a")
    config = built(f"model={odd}", f"dataset={odd}/text.txt")
    assert (config.model.path, config.dataset.path) == (str(odd), f"{odd}/text.txt")


def test_what_needs_no_translation_is_left_alone():
    words = ["objective=weight_align", "-m", "seed=0,1", "model.path=/a", "hydra.verbose=true"]
    assert rewrite(words) == words


MISTAKES = {
    "objective=wieght_align": r"objective = wieght_align: allowed are .*; did you mean 'weight_align'\?",
    "method=bset": r"method = bset: allowed are .*; did you mean 'best'\?",
    "experiment=ablation/ampp": r"experiment = ablation/ampp: allowed are .*; did you mean 'ablation/amp'\?",
    "elsewhere=weigt_align": r"elsewhere = weigt_align: .* did you mean 'weight_align'\?",
    "objective@elsewhere=typo": r"elsewhere = typo: allowed are interpolated, .*, weight_align$",
    "objective=typo elsewhere=typo": r"objective = typo: allowed are interpolated, .*, weight_align$",
    "objektive=weight_align": r"objektive: no such key; .* did you mean 'objective'\?",
    "sede=1": r"sede: no such key; .* did you mean 'seed'\?",
    "experimnt=objectives": r"experimnt: no such key; .* did you mean 'experiment'\?",
    "objective.alhpa=1": r"objective\.alhpa: no such key; objective has .* did you mean 'objective\.alpha'\?",
    "+objective.alhpa=1": r"objective\.alhpa: no such key; objective has .* did you mean 'objective\.alpha'\?",
    "calibration.bach=1": r"calibration\.bach: no such key; .* did you mean 'calibration\.batch'\?",
    "+anything=1": r"anything: no such key; there are .*seed",
    "seed=abc": r"seed = abc: allowed is a whole number$",
    "seed=-1": r"seed = -1: allowed is a whole number of at least 0",
    "seed=null": r"seed = null: allowed is a value other than null",
    "threads=0": r"threads = 0: allowed is a whole number of at least 1, or null",
    "dataset.sequences=1.5": r"dataset\.sequences = 1\.5: allowed is a whole number$",
    "dataset.sequences=0": r"dataset\.sequences = 0: allowed is a number of at least 1",
    "objective.alpha=much": r"objective\.alpha = much: allowed is a number$",
    "elsewhere=output_align elsewhere.alpha=2": r"elsewhere\.alpha = 2\.0: allowed is 0 <= alpha <= 1",
    "objective.alpha=2": r"objective\.alpha = 2\.0: allowed is 0 <= alpha <= 1",
    "objective.preserve_energy=maybe": r"objective\.preserve_energy = maybe: allowed is true or false",
    "objective.roles=q": r"objective\.roles = q: allowed is a list such as \[a,b\]",
    "calibration.granularity=grup": r"calibration\.granularity = grup: allowed are block, group; did you mean 'group'\?",
    "method=hbllm_row binarization.most=400": r"binarization\.most = 400: allowed is 2 to 128 \(block_size\)$",
    "model=null": r"model = null: allowed are folder, hub, .*, tiny_phi3$",
    "method=billm dataset=null": r"dataset = null: allowed are c4, c4_sample_a, .*, wikitext2_hub$",
    "method=billm ~dataset": r"dataset = null: allowed are c4, c4_sample_a, .*, wikitext2_hub$",
    "~solver": r"solver = null: allowed are alternating, .*, rounding$",
    "~elsewhere": r"elsewhere = null: allowed are interpolated, .*, weight_align$",
    "elsewhere=null": r"elsewhere = null: allowed are interpolated, .*, weight_align$",
    "method=billm binarization.salience=null": r"binarization\.salience = null: allowed are hessian, .*, magnitude$",
    "+method.x=1": r"method: allowed is a single value; there are no keys below it$",
    "objective@elswhere=proposed": r"objective@elswhere: no such key; .* did you mean 'objective@elsewhere'\?",
    "objective=proposed,weight_align": r"objective=proposed,weight_align: several values need -m",
    "objective": r"objective: allowed is key=value",
    "model=/no/such/folder": r"model = /no/such/folder: allowed is a name of the group or an existing path",
    "dataset=./no-such.txt": r"dataset = \./no-such\.txt: allowed is a name of the group or an existing path",
    "plugins=[/no/such.py]": r"plugins = /no/such\.py: allowed is an existing \.py file",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_the_full_key(mistake: str):
    with pytest.raises(BinllmError, match="^" + MISTAKES[mistake]) as caught:
        built(*mistake.split())
    assert "\n" not in str(caught.value)


def test_the_precision_of_the_feedback_names_another_run_only_where_it_is_not_that_of_older_runs():
    words = ("method=billm", "calibration.feedback_dtype=float64")
    usual = identify(compose_run(words))
    older = {**usual.resolved, "calibration": dict(usual.resolved["calibration"])}
    del older["calibration"]["feedback_dtype"]
    versions = {group: version_of(getattr(usual.config, group)) for group in (*ALGORITHMS, "diagnostics")}
    assert usual.digest == config_hash(older | {"versions": versions}, leave_out=LEAVE_OUT)
    assert usual.digest != identify(compose_run(["method=billm"])).digest
    assert built("method=billm").calibration.feedback_dtype is Precision.float32
    assert built().calibration.feedback_dtype is Precision.float64
