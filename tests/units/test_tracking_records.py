"""Records: what is written can be read, and nothing else can."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from binllm.errors import BinllmError
from binllm.tracking.records import (
    BitsRecord,
    LayerRecord,
    PerplexityRecord,
    Provenance,
    ResultsRecord,
    RunRecord,
    RunStatus,
)

LAYER = LayerRecord(
    block=0,
    layer="mlp.down_proj",
    role="down",
    objective="proposed",
    n_out=8,
    n_in=16,
    q_before=2.0,
    q_after=1.5,
    relative_error_weight=0.4,
    relative_error_target=0.3,
    ridge=1e-6,
    recoveries=1,
    amp_accepted=7,
    amp_rejected=3,
    amp_raised_q=2,
    sweeps=15,
    status="converged",
    seconds=0.25,
    peak_memory_bytes=10**9,
    payload_bits=128,
    stored_bits=300,
    diagnostics={"cosine": 0.9},
)


def layer_record(block: int = 0, **changes) -> LayerRecord:
    return dataclasses.replace(LAYER, block=block, **changes)


def perplexity(value: float) -> PerplexityRecord:
    return PerplexityRecord(
        perplexity=value,
        definition="wikitext2/test/window=512",
        windows=20,
        tokens=10220,
        nll_mean=math.log(value),
        seconds=3.0,
    )


RUN = RunRecord(
    run_id="smollm2-proposed-0123456789ab",
    status=RunStatus.complete,
    results=ResultsRecord(full_precision=perplexity(35.88), quantized=perplexity(190.0)),
    bits=BitsRecord(
        nominal=1.1,
        payload=1.0,
        linear=2.8,
        model=6.2,
        payload_bytes=10,
        linear_bytes=28,
        model_bytes=62,
    ),
    provenance=Provenance(
        git_commit="a" * 40,
        git_dirty=False,
        versions={"torch": "2.13.0"},
        platform="Linux",
        cpu="cpu",
        device="cpu",
        threads=2,
        seeds={"calibration": 0},
        calibration_hash="b" * 64,
    ),
    seconds={"quantize": 100.0, "full_precision": 3.0},
    peak_memory_bytes=3 * 2**30,
    phase_peak_memory_bytes={"quantize": 2 * 2**30, "full_precision": 2**30},
    config_hash="0123456789ab",
    started="2026-01-01T00:00:00+00:00",
    finished="2026-01-01T00:05:00+00:00",
)


def run_record(**changes) -> RunRecord:
    return dataclasses.replace(RUN, **changes)


@pytest.mark.parametrize("record", [layer_record(), run_record(), RunRecord(run_id="started")])
def test_a_record_survives_the_way_through_json_text(record):
    text = json.dumps(record.to_json(), allow_nan=False)
    assert type(record).from_json(json.loads(text)) == record


def test_run_json_reads_as_the_documents_promise():
    data = run_record().to_json()
    assert data["status"] == "complete"
    assert data["results"]["full_precision"]["perplexity"] == 35.88
    assert data["results"]["quantized"]["perplexity"] == 190.0
    assert data["results"]["quantized"]["definition"] == "wikitext2/test/window=512"
    assert data["error"] is None


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_not_finite_keep_the_file_valid_json(value):
    text = json.dumps(layer_record(q_after=value).to_json(), allow_nan=False)
    back = LayerRecord.from_json(json.loads(text)).q_after
    assert back == value or (math.isnan(back) and math.isnan(value))


def test_a_whole_number_is_a_float_where_one_is_expected():
    seconds = LayerRecord.from_json({**layer_record().to_json(), "seconds": 2}).seconds
    assert seconds == 2.0
    assert isinstance(seconds, float)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": 1}, ["colour"]),
        ({"objectiv": "x"}, ["objectiv", "'objective'"]),
        ({"seconds": "fast"}, ["seconds", "fast", "float"]),
        ({"sweeps": 1.5}, ["sweeps", "int"]),
        ({"recoveries": True}, ["recoveries", "int"]),
        ({"diagnostics": {"cosine": "high"}}, ["diagnostics.cosine"]),
        ({"version": 99}, ["99", "version 1"]),
    ],
)
def test_what_does_not_fit_a_layer_record_is_named(change, words):
    with pytest.raises(BinllmError) as caught:
        LayerRecord.from_json({**layer_record().to_json(), **change}, "layers.jsonl line 3")
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in ["layers.jsonl line 3", *words])


def test_a_missing_field_is_named_at_any_depth():
    data = run_record().to_json()
    del data["results"]["quantized"]["windows"]
    with pytest.raises(BinllmError, match=r"results\.quantized.*'windows'"):
        RunRecord.from_json(data)


def test_an_unknown_status_names_the_allowed_ones():
    with pytest.raises(BinllmError, match="complete, failed, running; did you mean 'complete'"):
        RunRecord.from_json({**run_record().to_json(), "status": "completed"})
