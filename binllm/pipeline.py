"""The main path of a run: load, measure, quantize, save, reload, measure again, record."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from binllm.configuration import command_line
from binllm.data import CalibrationTokens, TokenStream, calibration_tokens
from binllm.diagnostics.config import BLOCK_LOSS
from binllm.diagnostics.diagnosis import Diagnosis
from binllm.diagnostics.table import BlockFiles
from binllm.distributed import Ranks
from binllm.errors import BinllmError, bad_value
from binllm.evaluation import evaluation_tokens
from binllm.evaluation.measure import origin_of, task_measurements, text_measurement
from binllm.evaluation.zero_shot import check_zero_shot
from binllm.identity import ALGORITHMS, identify, model_name
from binllm.inner_loop import HEAD, Events, open_streams, quantize_blocks, quantize_head
from binllm.kernels import check_kernel
from binllm.models import LoadedModel, check_context, decoder_blocks, layer_roles, load_model, to_device
from binllm.packing import binary_layers
from binllm.packing.accounting import checkpoint_bits
from binllm.packing.card import Card, Measured, write_card
from binllm.packing.checkpoint import load_checkpoint, save_checkpoint, stream_checkpoint
from binllm.packing.headers import checkpoint_hash
from binllm.plan import Plan
from binllm.resume import restore_progress, save_progress
from binllm.schema import RunConfig
from binllm.tracking import provenance
from binllm.tracking.folder import RunFolder
from binllm.tracking.measurements import Origin
from binllm.tracking.memory import process_peak
from binllm.tracking.progress import RunProgress
from binllm.tracking.records import BitsRecord, PerplexityRecord, ResultsRecord, RunRecord, RunStatus, utc_now
from binllm.tracking.state import ResumeState, write_layers
from binllm.tracking.wandb_exporter import export_run


@dataclass
class Job:
    """One run with everything it needs: the built configuration, its folder, its progress, the processes that share it."""

    config: RunConfig
    folder: RunFolder
    progress: RunProgress
    ranks: Ranks


def run(composed: Any, ranks: Ranks = Ranks()) -> RunFolder:
    """Do a run, resume it, or find it done.

    Args:
        composed: The configuration as Hydra composed it.
        ranks: The processes that share it, this one being the first; the others call `binllm.assist.assist`.

    Returns:
        Its folder, closed; ``run.json`` says the rest.

    Raises:
        BinllmError: A mistake in the input; nothing half-written is left.
    """
    one = identify(composed)
    config = one.config
    check_zero_shot(config.zero_shot)
    check_shares(config, ranks)
    with RunFolder.open(config.paths.results, one.name, OmegaConf.to_yaml(composed, resolve=True)) as folder:
        done = folder.status() == "done"
        ranks.tell(done)
        if not done:
            try:
                _execute(Job(config, folder, RunProgress(), ranks), RunRecord(run_id=one.name, config_hash=one.digest))
            except BinllmError:
                if not (folder.state / "state.json").exists():
                    shutil.rmtree(folder.path)  # a mistake in the input that cost no work leaves nothing behind
                raise
        shutil.rmtree(folder.state, ignore_errors=True)  # the checkpoint holds all of it
        if config.zero_shot.tasks:
            measure_tasks(folder, config)
        if not folder.wandb.exists():
            export_run(folder, config.tracker, one.resolved)
        return folder


def _execute(job: Job, record: RunRecord) -> None:
    """Run the phases; whatever happens, run.json says it."""
    record = replace(record, status=RunStatus.running, started=utc_now())
    job.folder.write_record(record)
    try:
        with job.progress:
            record = _phases(job, record)
        record = replace(record, status=RunStatus.complete)
    except KeyboardInterrupt:
        raise  # the record goes on saying "running", and nobody holds the lock: interrupted, to be resumed
    except BaseException as error:
        record = replace(record, status=RunStatus.failed, error=f"{type(error).__name__}: {error}")
        raise
    finally:
        costs = {"seconds": job.progress.seconds, "phase_peak_memory_bytes": job.progress.peaks}
        record = replace(record, finished=utc_now(), peak_memory_bytes=process_peak(), **costs)
        job.folder.write_record(record)


def _phases(job: Job, record: RunRecord) -> RunRecord:
    config, folder, progress = job.config, job.folder, job.progress
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = pick_device(config.device)
    check_kernel(config.kernel.name, device)
    with progress.phase("load"):
        loaded = load_model(config.model, config.streaming)
        model: PreTrainedModel = to_device(loaded.model, device)
        tokens = calibration_tokens(config.dataset, loaded.tokenizer, config.seed)
        text = evaluation_tokens(config.evaluation, loaded.tokenizer)
        check_model(model, config)
        progress.blocks = len(decoder_blocks(model)[1])
    with progress.phase("full_precision"):
        full_precision = measure(model, text, job, origin_of(model, loaded.origin, None))
    quantize_resumably(model, tokens, plan_of(config), job, fingerprint=fingerprint_of(loaded, tokens))
    with progress.phase("save"):
        header = {"run_id": record.run_id, "method": config.method, "objective": config.objective.name}
        save_checkpoint(model, loaded.tokenizer, folder.checkpoint, header)
        written, dtype = checkpoint_hash(folder.checkpoint), model.dtype
        del loaded, model
    with progress.phase("evaluate"):
        kernel = config.kernel.name.value
        reloaded, _ = load_packed(config, folder.checkpoint, dtype)
        quantized = measure(reloaded, text, job, origin_of(reloaded, written, kernel))
    write_card(folder.checkpoint, card_of(config, full_precision, quantized))
    account = checkpoint_bits(folder.checkpoint)
    return replace(
        record,
        results=ResultsRecord(full_precision=full_precision, quantized=quantized),
        bits=BitsRecord(**{name: getattr(account, name) for name in BitsRecord.__dataclass_fields__}),
        provenance=provenance.collect(
            device=str(device),
            seeds={"seed": config.seed},
            calibration_hash=tokens.hash,
            checkpoint_hash=written,
        ),
    )


def check_model(model: PreTrainedModel, config: RunConfig) -> None:
    """Refuse at once what would fail only after minutes.

    Raises:
        BinllmError: The model is quantized already, its context is shorter than the calibration sequences, or it has no
            layer of a role that the objective names.
    """
    if binary_layers(model):
        raise bad_value("model", model_name(config), "a model that is not quantized yet")
    check_context(model, config.dataset.length, "dataset.length")
    _, blocks = decoder_blocks(model)
    plan_of(config).check_roles([role.value for role in layer_roles(blocks[0]).values()])


def fingerprint_of(loaded: LoadedModel, tokens: CalibrationTokens) -> str:
    """What a resumed run, and every process of one, must have alike: the weights' origin and the calibration text."""
    return f"{loaded.origin} {tokens.hash}"


def check_shares(config: RunConfig, ranks: Ranks) -> None:
    """Refuse what several processes cannot share: a streamed model, diagnostics that look at more than the first one has.

    Raises:
        BinllmError: They are asked for, or there are fewer batches than processes.
    """
    share = ranks.shares(config.dataset.sequences, config.calibration.batch)[0].stop
    if ranks.size > 1 and config.streaming:
        raise bad_value("streaming", True, "false under torchrun: every process holds the whole model")
    if ranks.size == 1 or not config.diagnostics.metrics:
        return
    if BLOCK_LOSS in config.diagnostics.metrics:
        raise bad_value(
            "diagnostics.metrics", BLOCK_LOSS, "other metrics under torchrun: it fits to all calibration text"
        )
    if (wanted := config.diagnostics.sequences) is None or wanted > share:
        raise bad_value("diagnostics.sequences", wanted, f"at most {share} under torchrun, the first process's share")


def card_of(config: RunConfig, full_precision: PerplexityRecord, quantized: PerplexityRecord) -> Card:
    """What the checkpoint's model card says of the run."""
    before, after = full_precision.perplexity, quantized.perplexity
    measured = Measured(definition=quantized.definition, full_precision=before, quantized=after)
    return Card(base_model=config.model.id or model_name(config), command=command_line(), measured=measured)


def plan_of(config: RunConfig) -> Plan:
    """The objects that quantize, out of the built configuration."""
    return Plan(calibration=config.calibration, **{group: getattr(config, group) for group in ALGORITHMS})


def quantize_resumably(
    model: PreTrainedModel, tokens: CalibrationTokens, plan: Plan, job: Job, fingerprint: str
) -> None:
    """The inner loop with a durable state after every block."""
    progress = job.progress
    if remark := plan.remark():
        progress.note(remark)
    state, files = ResumeState(job.folder.state, job.folder.layers, fingerprint), BlockFiles(job.folder.state)
    diagnosis = Diagnosis(job.config.diagnostics, plan)
    with progress.phase("quantize", total=progress.blocks, done=state.blocks_done):
        streams = open_streams(model, tokens.ids, plan, job.ranks)
        job.ranks.agree(fingerprint, "model or calibration text")
        start = restore_progress(state, streams)

        def finished(index: int, block: Any, both: Any, records: list[Any]) -> None:
            files.save(index, diagnosis.finish(index, block, both, records))
            save_progress(state, index, block, both, records)
            progress.block_done(index)

        quantize_blocks(streams, plan, Events(diagnosis.begin, progress.layer, finished), start)
        head = quantize_head(model, streams, plan)
        write_layers(job.folder.layers, [r for r in job.folder.read_layers() if r.role != HEAD] + head)
    if job.config.diagnostics.metrics:
        progress.set_apart("diagnostics", diagnosis.seconds)
        files.join(progress.blocks, job.folder)


def load_packed(
    config: RunConfig, checkpoint: Path, dtype: torch.dtype | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """The packed model of a checkpoint as the configuration wants it, streamed if the model was.

    Args:
        config: Kernel, device, attention, streaming.
        checkpoint: Its folder.
        dtype: Of everything that is not packed; None is the saved model's.

    Raises:
        BinllmError: As `load_checkpoint`.
    """
    load = stream_checkpoint if config.streaming else load_checkpoint
    device, attention = str(pick_device(config.device)), config.model.attention.value
    return load(checkpoint, dtype, config.kernel.name.value, device, attention)


def measure(model: PreTrainedModel, text: TokenStream, job: Job, origin: Origin) -> PerplexityRecord:
    """Perplexity as the run's record has it; its windows are in a file of their own."""
    found = text_measurement(model, text, job.config.evaluation, origin, job.folder.evaluations, job.progress.step)
    return PerplexityRecord(
        perplexity=found.perplexity,
        definition=found.definition,
        windows=len(found.window_nll),
        tokens=sum(found.window_tokens),
        nll_mean=found.nll,
        seconds=found.seconds,
    )


def measure_tasks(folder: RunFolder, config: RunConfig) -> None:
    """The zero-shot tasks on a finished run's checkpoint.

    Raises:
        BinllmError: The checkpoint has no tokenizer, or as `task_measurements`.
    """
    model, tokenizer = load_packed(config, folder.checkpoint, getattr(torch, config.model.dtype.value))
    if tokenizer is None:
        raise BinllmError(f"{folder.checkpoint}: zero-shot tasks need a tokenizer, and the checkpoint has none")
    origin = origin_of(model, checkpoint_hash(folder.checkpoint), config.kernel.name.value)
    task_measurements(model, tokenizer, config.zero_shot, origin, folder.evaluations)


def pick_device(name: str) -> torch.device:
    """Turn the ``device`` key into a device.

    Raises:
        BinllmError: The name is unknown or this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise bad_value("device", name, ("auto", "cpu", "cuda")) from error
    if device.type not in ("cpu", "cuda"):
        raise bad_value("device", name, ("auto", "cpu", "cuda"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BinllmError(f"device = {name}: this machine has no CUDA device; allowed are auto, cpu")
    return device
