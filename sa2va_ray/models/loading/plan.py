"""Decides, on names and shapes alone, which tensor of the model comes from which source; refuses what does not fit."""

from collections.abc import Sequence
from dataclasses import dataclass

from sa2va_ray.config import UserError
from sa2va_ray.models.loading.quantised import check_tensors
from sa2va_ray.models.loading.report import LoadReport, SourceReport, some, source_report
from sa2va_ray.models.loading.source_folder import SourceFolder
from sa2va_ray.models.loading.weight_files import StoredTensor, WeightSource
from sa2va_ray.models.parts import (
    EMBEDDING_WEIGHT,
    GROUNDING_PREFIX,
    LANGUAGE_MODEL,
    LM_HEAD_WEIGHT,
    MASK_DECODER,
    PROJECTOR,
    SEG_HEAD,
)
from sa2va_ray.telemetry import LOGGER

BASE, SAM2, INITIAL, XTUNER = "folder", "sam2_checkpoint", "initialise_from", "xtuner_checkpoint"
_TRAINED_BY_XTUNER = (LANGUAGE_MODEL, PROJECTOR, SEG_HEAD, MASK_DECODER)


@dataclass(frozen=True)
class LoraScale:
    """Scale of LoRA adapters, W + alpha / rank * B A, which an XTuner checkpoint does not say itself."""

    alpha: float | None
    rank: int | None


@dataclass
class Planned:
    """Where one tensor comes from.

    Attributes:
        stored: None for a newly initialised one.
        known_rows: rows that `stored` fills, where tokens were added to the vocabulary; None for all.
        adapter: A (r, in) and B (out, r) to be folded in, and their factor.
    """

    stored: StoredTensor | None
    known_rows: int | None = None
    adapter: tuple[StoredTensor, StoredTensor, float] | None = None


def plan_load(
    expected: dict[str, tuple[int, ...]], sources: Sequence[WeightSource], folder: SourceFolder, scale: LoraScale
) -> tuple[dict[str, Planned], LoadReport]:
    """Lays the sources over each other, later ones win, and logs the report.

    Args:
        expected: shapes of the model's tensors.
        sources: the first is the folder itself.

    Raises:
        UserError: quantised weights; a tensor that no source has and that may not be fresh; a source of which nothing,
            or not all that has to, fits; adapters whose scale is not given or does not fit.
    """
    check_tensors(expected, sources)
    plan: dict[str, Planned] = {}
    reports = []
    if folder.tied and EMBEDDING_WEIGHT in sources[0].tensors:
        sources[0].tensors.setdefault(LM_HEAD_WEIGHT, sources[0].tensors[EMBEDDING_WEIGHT])
    for source in sources:
        fitting, of_source = _fit(expected, source, folder)
        plan |= fitting
        reports.append(of_source)
    missing = sorted(expected.keys() - plan.keys())
    may_be_fresh = folder.kind == "base" and reports[-1].role != XTUNER
    fresh = [name for name in missing if may_be_fresh and SEG_HEAD.holds(name)]
    missing = [name for name in missing if name not in fresh]
    new_rows = [f"{n} rows {p.known_rows} to {expected[n][0] - 1}" for n, p in plan.items() if p.known_rows]
    merged = sources[-1].adapters.keys() & expected.keys()
    total = source_report(
        "model", "all sources together", loaded=plan, merged=merged, missing=missing, fresh=[*fresh, *new_rows]
    )
    report = LoadReport(tuple(reports), total)
    LOGGER.info("weights by module\n%s", report.table())
    _check_total(missing, reports, folder)
    for source, of_source in zip(sources, reports, strict=True):
        _check_source(of_source)
        _plan_adapters(expected, source, scale, plan)
    plan |= {name: Planned(None) for name in fresh}
    return plan, report


def _fit(
    expected: dict[str, tuple[int, ...]], source: WeightSource, folder: SourceFolder
) -> tuple[dict[str, Planned], SourceReport]:
    """The tensors of one source that fit the model by name and full shape."""
    fitting: dict[str, Planned] = {}
    mismatched = []
    for name, stored in source.tensors.items():
        if stored.shape == expected.get(name):
            fitting[name] = Planned(stored)
        elif _lacks_new_rows(name, stored, expected, source, folder):
            fitting[name] = Planned(stored, known_rows=folder.known_tokens)
        elif name in expected:
            mismatched.append(f"{name}: {_size(stored.shape)}, not {_size(expected[name])}")
    merged = source.adapters.keys() & expected.keys()
    return fitting, source_report(
        source.role,
        source.location,
        loaded=fitting,
        merged=sorted(merged),
        mismatched=mismatched,
        missing=[n for n in expected if n not in source.tensors and n not in merged and _concerns(source, n)],
        unexpected=[n for n in (*source.tensors, *source.adapters) if n not in expected],
    )


def _lacks_new_rows(
    name: str,
    stored: StoredTensor,
    expected: dict[str, tuple[int, ...]],
    source: WeightSource,
    folder: SourceFolder,
) -> bool:
    """Whether it is a base's embedding or LM head, made before Sa2VA's tokens were added (or padded beyond them)."""
    if source.role != BASE or folder.kind != "base" or name not in (EMBEDDING_WEIGHT, LM_HEAD_WEIGHT):
        return False
    return stored.shape[1:] == expected[name][1:] and stored.shape[0] >= folder.known_tokens


def _concerns(source: WeightSource, name: str) -> bool:
    return source.role != SAM2 or name.startswith(GROUNDING_PREFIX)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single value"


def _check_total(missing: list[str], reports: Sequence[SourceReport], folder: SourceFolder) -> None:
    if not missing:
        return
    unfit = [text for report in reports if report.role in (BASE, SAM2) for text in report.names("mismatched")]
    cause = f" Of another shape than config.json says: {some(unfit)}." if unfit else ""
    if missing == [LM_HEAD_WEIGHT]:
        cause += " If it is tied to the embedding, config.json has to say so: tie_word_embeddings in llm_config."
    if any(name.startswith(GROUNDING_PREFIX) for name in missing):
        if folder.kind == "base" and all(report.role != SAM2 for report in reports):
            cause += " An InternVL3 base has no SAM 2: give sam2_checkpoint (sam2_hiera_large.pt)."
        else:
            cause += " For a SAM 2 of another size than hiera-large give grounding_config."
    raise UserError(
        f"{len(missing)} tensors of the model are in none of {', '.join(r.location for r in reports)}: "
        f"{some(missing)}.{cause}"
    )


def _check_source(report: SourceReport) -> None:
    """A source that someone asked for has to do what it is for."""
    unexpected, mismatched = report.names("unexpected"), report.names("mismatched")
    if report.role == SAM2 and unexpected:
        raise UserError(
            f"{report.location} has {len(unexpected)} tensors that SAM 2.0 does not have: {some(unexpected)}. Sa2VA is "
            "built on SAM 2.0 (sam2_hiera_large.pt), not on SAM 2.1."
        )
    if report.role == INITIAL:
        if report.names("merged"):
            raise UserError(f"{report.location} holds LoRA adapters: give it as xtuner_checkpoint.")
        if not report.names("loaded"):
            raise UserError(f"Nothing of {report.location} fits this model, by name and shape.")
    if report.role == XTUNER:
        if mismatched or unexpected:
            raise UserError(
                f"{report.location} was not trained on this base: {len(mismatched)} tensors have another shape "
                f"[{some(mismatched)}], {len(unexpected)} are unknown [{some(unexpected)}]."
            )
        took = {module for module, names in report.modules.items() if names.loaded or names.merged}
        if nothing := [p.reported_as for p in _TRAINED_BY_XTUNER if p.reported_as not in took]:
            raise UserError(f"{report.location} has nothing for {', '.join(nothing)}: it is no Sa2VA checkpoint.")
    if report.role == BASE and unexpected:
        LOGGER.warning("%s has %d tensors that the model does not use", report.location, len(unexpected))


def _plan_adapters(
    expected: dict[str, tuple[int, ...]], source: WeightSource, scale: LoraScale, plan: dict[str, Planned]
) -> None:
    if not source.adapters:
        return
    pairs = source.adapters
    if incomplete := [name for name, pair in pairs.items() if pair.keys() != {"A", "B"}]:
        raise UserError(f"{source.location} has only one half of {len(incomplete)} adapters: {some(incomplete)}.")
    found = sorted({pair["A"].shape[0] for pair in pairs.values()} | {pair["B"].shape[1] for pair in pairs.values()})
    if scale.alpha is None or scale.rank is None:
        raise UserError(
            f"{source.location} holds LoRA adapters of rank {found}. Their alpha is not in the file: give lora_alpha "
            "and lora_rank from the config of the run (all published ones have alpha = 2 x rank)."
        )
    if found != [scale.rank]:
        raise UserError(f"{source.location} holds adapters of rank {found}, lora_rank says {scale.rank}.")
    for name, pair in pairs.items():
        if name not in expected or (pair["B"].shape[0], pair["A"].shape[1]) != expected[name]:
            raise UserError(
                f"{source.location} adapts {name}, which is not a weight of this base, or of another shape."
            )
        plan[name].adapter = (pair["A"], pair["B"], scale.alpha / scale.rank)
