"""jobs.export: a checkpoint becomes a folder that others can load, and is published when it has passed its checks."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sa2va_ray import __version__, storage
from sa2va_ray.config import UserError
from sa2va_ray.export.checks.against_checkpoint import (
    check_answers,
    check_weight_changes,
    mask_agreement,
    run_unmerged,
)
from sa2va_ray.export.checks.checklist import changes_table, checks_table, raise_for_failed
from sa2va_ray.export.checks.child_process import gpu_has_room
from sa2va_ray.export.checks.folder import NUM_STAGES as CHECK_STAGES
from sa2va_ray.export.checks.folder import check_folder, weight_facts
from sa2va_ray.export.choose import choose_checkpoint
from sa2va_ray.export.config import ExportConfig
from sa2va_ray.export.hub_upload import check_hub, upload_to_hub
from sa2va_ray.export.merge import Trained
from sa2va_ray.export.model_card import write_model_card
from sa2va_ray.export.model_files import write_model_files
from sa2va_ray.export.quantise import NUM_STAGES as QUANTISE_STAGES
from sa2va_ray.export.quantise import write_quantised
from sa2va_ray.export.shards import write_weights
from sa2va_ray.export.target import (
    check_fetch_space,
    check_model_space,
    check_space,
    check_target,
    publish,
    staging_folder,
)
from sa2va_ray.export.upstream_config import check_fits_upstream
from sa2va_ray.manifest import digest, read_manifest
from sa2va_ray.models.checkpoint import OPTIMIZER
from sa2va_ray.models.model_manifest import (
    MODEL_MANIFEST,
    UNCALIBRATED_THRESHOLD,
    read_model_manifest,
    update_model_manifest,
    write_model_manifest,
)
from sa2va_ray.models.sa2va.processing_sa2va import NEW_TOKENS, token_id
from sa2va_ray.models.trained_weights import LocalCheckpoint, build_base, open_checkpoint
from sa2va_ray.submission import is_submitted
from sa2va_ray.telemetry import LOGGER, Progress, configure_logging, log_result

_NUM_STAGES = 2 + CHECK_STAGES
_NAME = "sa2va"


def export(config: ExportConfig) -> str:
    """Merges a checkpoint into its base, or puts an exported model's weights into 8 bits, writes one folder, checks it,
    and puts it at `config.out` and on the hub; or checks the folder `config.verify`.

    Returns:
        the model's SHA-256, which names its weights and code in every later result.

    Raises:
        UserError: no complete checkpoint; a target that may not be replaced, or has no room; a folder that does not
            pass its checks, which is not left behind; a hub that refuses.
    """
    configure_logging()
    if is_submitted():
        _use_all_cores()
    if config.hub_repo:
        check_hub(config.hub_repo)
    if config.verify is not None:
        return _verify(config, config.verify)
    assert config.out is not None
    source = {"model": config.model} if config.model else {"checkpoint": config.checkpoint or ""}
    storage.check_outside(config.out, source, replaced=True)
    check_target(config.out)
    with staging_folder(config.out) as staged:
        model_sha256 = _quantise(staged, config) if config.model else _export_checkpoint(staged, config)
        folder = publish(staged, config.out)
        if config.hub_repo:
            _upload(folder, config)
    LOGGER.info("exported: %s, model %s", config.out, model_sha256[:12])
    if config.model:
        log_result(config.out, "jobs.evaluate", f"model={config.out}", "data_uri=DATA", "out=EVALUATION")
    else:
        log_result(config.out, "jobs.calibrate", f"model={config.out}", "data_uri=DATA")
    return model_sha256


def _use_all_cores() -> None:
    """Ray leaves the process of a submitted job one thread, with which it takes minutes to merge 8B of weights. The
    checks' processes inherit the variable."""
    num_cores = len(os.sched_getaffinity(0))
    os.environ["OMP_NUM_THREADS"] = str(num_cores)
    torch.set_num_threads(num_cores)


def _export_checkpoint(staged: Path, config: ExportConfig) -> str:
    assert config.checkpoint is not None
    chosen = choose_checkpoint(config.checkpoint, config.which)
    with _opened(chosen.uri) as checkpoint:
        LOGGER.info("exporting %s, step %d: %s", checkpoint.uri, checkpoint.state.step, chosen.reason)
        with Progress("export", _NUM_STAGES) as progress:
            return _write_and_check(staged, config, checkpoint, chosen.reason, progress)


def _quantise(staged: Path, config: ExportConfig) -> str:
    assert config.model is not None
    check_space(staged, storage.size(config.model), "The quantised model, at most,")
    if not storage.is_local(config.model):
        check_fetch_space([config.model])
    with storage.local_copy(config.model) as model, Progress("quantise", QUANTISE_STAGES) as progress:
        return write_quantised(model, staged, config.name, config.max_shard_gib, progress)


def _verify(config: ExportConfig, uri: str) -> str:
    if not storage.is_local(uri):
        check_fetch_space([uri])
    with storage.local_copy(uri) as folder:
        facts = read_model_manifest(folder)
        size = facts.get("num_parameters")
        on_gpu = "quantisation" not in facts and isinstance(size, int) and gpu_has_room(size)
        with Progress("verify", CHECK_STAGES) as progress:
            checks = check_folder(folder, progress, on_gpu).checks
        LOGGER.info("checks of %s\n%s", uri, checks_table(checks))
        raise_for_failed(checks, uri)
        if config.hub_repo:
            _upload(folder, config)
        model_sha256 = digest(read_model_manifest(folder))
    log_result(uri, "jobs.evaluate", f"model={uri}", "data_uri=DATA", "out=EVALUATION")
    return model_sha256


@contextmanager
def _opened(uri: str) -> Iterator[LocalCheckpoint]:
    """The checkpoint, with its base on this machine: it is read twice."""
    if not storage.is_local(uri):
        names = read_manifest(uri, what="checkpoint")["files"]
        check_fetch_space(storage.join(uri, name) for name in names if not name.startswith(OPTIMIZER))
    with open_checkpoint(uri) as checkpoint, ExitStack() as stack:
        base = checkpoint.model_config.base
        if base is None:
            yield checkpoint
            return
        places = base.model_dump(include={"source", "sam2_checkpoint", "initialise_from"}, exclude_none=True)
        check_fetch_space(place for place in places.values() if not storage.is_local(place))
        local = {key: str(stack.enter_context(storage.local_copy(place))) for key, place in places.items()}
        model_config = checkpoint.model_config.model_copy(update={"base": base.model_copy(update=local)})
        yield replace(checkpoint, model_config=model_config)


def _write_and_check(
    folder: Path, config: ExportConfig, checkpoint: LocalCheckpoint, reason: str, progress: Progress
) -> str:
    """Fills an empty folder. Returns the model's SHA-256."""
    facts = _write_model(folder, config, checkpoint)
    progress.step("weights are written")
    on_gpu = gpu_has_room(facts["num_parameters"])
    unmerged = run_unmerged(folder, checkpoint, on_gpu)
    progress.step("the checkpoint has answered")
    changes = unmerged.changes
    LOGGER.info("changes against the base\n%s", changes_table(changes["modules"]))
    raise_for_failed(check_weight_changes(changes), f"{checkpoint.uri} is not exported, nothing is left behind")
    facts |= weight_facts(folder) | {
        "checkpoint_chosen_as": reason,
        "weights_sha256": changes["weights_sha256"],
        "base_weights_sha256": changes["base_weights_sha256"],
        "num_changed_tensors": sum(row["changed"] for row in changes["modules"].values()),
        "changes": changes["modules"],
    }
    write_model_card(folder, checkpoint, facts)
    model_sha256 = write_model_manifest(folder, facts)
    result = check_folder(folder, progress, on_gpu)
    checks = [*result.checks, *check_weight_changes(changes), *check_answers(result.answers, unmerged.answers)]
    LOGGER.info("checks\n%s", checks_table(checks))
    raise_for_failed(checks, f"{checkpoint.uri} is not exported, nothing is left behind")
    update_model_manifest(folder, {"agreement": mask_agreement(result.answers, unmerged.answers)})
    return model_sha256


def _write_model(folder: Path, config: ExportConfig, checkpoint: LocalCheckpoint) -> dict[str, Any]:
    """Writes all but card and manifest, and returns what the manifest says so far. Of the weights it holds the base,
    which it gives up tensor by tensor, and one shard."""
    check_model_space(folder, checkpoint.model_config)
    model, processor = build_base(checkpoint)
    architecture, num_parameters = model.config, sum(parameter.numel() for parameter in model.parameters())
    if config.layout == "upstream":
        check_fits_upstream(architecture)
    base = model.state_dict()
    del model
    trained = Trained(checkpoint, [token_id(processor.tokenizer, token) for token in NEW_TOKENS])
    trained.check(set(base))
    write_model_files(folder, architecture, processor, config.layout)
    shapes = {name: tuple(tensor.shape) for name, tensor in base.items()}
    write_weights(folder, shapes, lambda name: trained.merge(name, base.pop(name)), config.layout, config.max_shard_gib)
    return {
        "name": config.name or _NAME,
        "layout": config.layout,
        "base_sha256": checkpoint.state.base_sha256,
        "checkpoint_sha256": checkpoint.sha256,
        "data_sha256": checkpoint.state.data_sha256,
        "trained_splits": ["train"],
        "validation_split": "val",
        "train_step": checkpoint.state.step,
        "train_metrics": checkpoint.state.metrics,
        "threshold": UNCALIBRATED_THRESHOLD,
        "num_parameters": num_parameters,
        "vocabulary": architecture.llm_config.vocab_size,
        "seg_token_id": architecture.seg_token_id,
        "tool_version": __version__,
    }


def _upload(folder: Path, config: ExportConfig) -> None:
    assert config.hub_repo is not None
    names = [*read_model_manifest(folder)["files"], MODEL_MANIFEST]
    try:
        url = upload_to_hub(folder, names, config.hub_repo, config.hub_private)
    except UserError as error:
        place = config.verify or config.out
        raise UserError(
            f"{error} The model is at {place} and has passed; jobs.export verify={place} hub_repo={config.hub_repo} "
            "sends it, and goes on where this has stopped."
        ) from None
    LOGGER.info("sent to %s", url)
