"""The prepare job: source in, prepared data set out.

1. read the source's annotations, give every sample a pseudonym and a split;
2. validate every sample on the cluster, then those that look alike beside each other;
3. write the report; stop here where there is too much in quarantine, or where splits are not independent;
4. write the samples on the cluster, the manifest last.
"""

import json
import shlex
import unicodedata
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from sa2va_ray import __version__, manifest, storage
from sa2va_ray.config import UserError
from sa2va_ray.data.nnunet_layout import check_nnunet_folder, write_nnunet_layout
from sa2va_ray.data.sample import SPLITS
from sa2va_ray.data.sample_kinds import KINDS, SampleKind, distinct_kinds
from sa2va_ray.images.decode import to_png
from sa2va_ray.label_studio.address import project_number
from sa2va_ray.manifest import MANIFEST
from sa2va_ray.pictures.classes import with_legend
from sa2va_ray.pictures.sheet import contact_sheet
from sa2va_ray.prepare import examine, private_table, write
from sa2va_ray.prepare.checks.duplicates import equal_images, near_duplicates
from sa2va_ray.prepare.classes import Classes
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.examine import QUARANTINED, Task
from sa2va_ray.prepare.identity.alike import explain_alike
from sa2va_ray.prepare.identity.pseudonym_key import WITHOUT_A_KEY, PseudonymKey, read_key
from sa2va_ray.prepare.identity.pseudonyms import Pseudonyms
from sa2va_ray.prepare.identity.split import check_splits, explain_empty, explain_shares, find_leaks
from sa2va_ray.prepare.label_pattern import LabelPattern
from sa2va_ray.prepare.plan import plan
from sa2va_ray.prepare.report.corrections import describe_corrections, summarize_corrections
from sa2va_ray.prepare.report.numbers import annotators, build_report, pixel_spacing
from sa2va_ray.prepare.report.page import render_report
from sa2va_ray.prepare.report.pictures import ReportPictures, draw_pictures
from sa2va_ray.prepare.report.truths import explain_truths
from sa2va_ray.prepare.sources import Source, SourceOptions, read_source
from sa2va_ray.prepare.sources.label_studio.pull import pulled
from sa2va_ray.telemetry import LOGGER, configure_logging, log_result

Outcomes = dict[int, dict[str, Any]]  # index -> row of examine.SCHEMA
Counts = dict[str, dict[str, int]]  # split -> {"samples", "patients", "objects", "negatives"}

_SHEET_COLUMNS = 4
_NUM_LEAKS = 10


class DataRefused(UserError):
    """The job ran as asked, and what it found does not make a data set."""

    exit_status = 1


def prepare(config: PrepareConfig) -> str | None:
    """Runs the job and returns the `data_sha256` of the data set, None with `validate_only`.

    Raises:
        UserError: a source or `out` that cannot be used (found before Ray is started).
        DataRefused: too many samples in quarantine, splits that are not independent, or nothing to train on; then
            only the report is written.
    """
    configure_logging()
    project = project_number(config.source)
    if project is None or config.label_studio is None:
        return _prepare(config)
    write.check_replaceable(config.out)  # before much is fetched
    with pulled(project, config.label_studio) as folder:
        return _prepare(config.model_copy(update={"source": folder}))


def _prepare(config: PrepareConfig) -> str | None:
    storage.check_outside(config.out, {"source": config.source}, replaced=True)
    source = _read(config)
    write.check_replaceable(config.out)
    storage.check_writable(config.out)
    if config.nnunet_out:
        _check_nnunet_out(config.nnunet_out, config)
    if config.private_table:
        private_table.check_place(config.private_table, config)
    key = read_key(config.pseudonym_key_file)
    tasks, quarantined = plan(source, Pseudonyms(key.value, config.patient_pattern), config.split)
    outcomes = examine.examine(tasks, quarantined, config)
    leaks = _compare(outcomes, config)
    if config.private_table:
        private_table.write(config.private_table, source, outcomes)
    facts = {**_facts(source, key, config), "corrections": _corrections(outcomes)}
    alike = explain_alike({task.record.index: task.record.patient or "" for task in tasks})
    last = [
        *alike,
        *explain_empty(_counts(outcomes), config.split),
        *explain_truths(_by_split(outcomes), config.annotators),
    ]
    notes = [*explain_shares(_counts(outcomes), config.split), *last]
    for note in notes:
        LOGGER.warning("%s", note)
    LOGGER.info("drawing the report")
    report_files = _report(source, outcomes, {**facts, "leaks": leaks, "split_notes": notes}, config)
    refusal = _refusal(outcomes, leaks, config)
    if refusal or config.validate_only:
        folder = storage.join(config.out, write.VALIDATION)
        _write_files(folder, report_files)
        report = storage.join(folder, "report.html")
        if refusal:
            raise DataRefused(
                f"{refusal} No data set was written. Its report says more: sa2va-ray open {shlex.quote(report)}"
            )
        _warn_again(last)
        LOGGER.info("next: the same command without validate_only=true")
        log_result(report)
        return None
    used = [task for task in tasks if outcomes[task.record.index]["split"]]
    data_sha256 = _write_data_set(used, outcomes, facts, report_files, config)
    if config.nnunet_out:
        write_nnunet_layout(config.out, config.nnunet_out)
        LOGGER.info("the same in the layout of nnU-Net: %s", config.nnunet_out)
    _warn_again(last)
    log_result(config.out, "jobs.train", "CONFIG.yaml", f"data_uri={config.out}", "runs_uri=RUNS", "name=NAME")
    return data_sha256


def _check_nnunet_out(uri: str, config: PrepareConfig) -> None:
    storage.check_outside(uri, {"source": config.source, "out": config.out}, key="nnunet_out", replaced=True)
    storage.check_outside(config.out, {"nnunet_out": uri}, replaced=True)
    check_nnunet_folder(uri)
    storage.check_writable(uri)


def _read(config: PrepareConfig) -> Source:
    """Reads the source, and logs what is there."""
    options = SourceOptions(
        config.phrase,
        config.mask_threshold,
        config.checks.max_pixels,
        frozenset(unicodedata.normalize("NFC", label.strip()) for label in config.ignore_labels),
        config.on_crowd,
        negatives_list=config.negatives_list,
        annotators=config.annotators,
        classes=Classes(config.classes) if config.classes else None,
        pairs=config.pairs,
        label_pattern=LabelPattern(config.label_pattern) if config.label_pattern else None,
        patients_of_data_sets="patient_pattern" not in config.model_fields_set,
    )
    source = read_source(config.source, options)
    layouts = [f"{count} items of layout {name}" for name, count in source.layouts.items()]
    LOGGER.info("source: %s", ", ".join(layouts) or "no items")
    for note in source.notes:
        LOGGER.info("%s", note)
    if source.unread:
        LOGGER.info("files not read: %s", ", ".join(f"{count} {suffix}" for suffix, count in source.unread.items()))
    return source


def _compare(outcomes: Outcomes, config: PrepareConfig) -> list[str]:
    """Puts samples in quarantine whose image is there twice; returns what stands in two splits."""
    for twice in equal_images([row for row in outcomes.values() if row["verdict"] != QUARANTINED]):
        examine.put_in_quarantine(outcomes[twice.index], twice)
    used = {index: row for index, row in outcomes.items() if row["verdict"] != QUARANTINED}
    hashes = {index: row["perceptual_hash"] for index, row in used.items()}
    splits = {index: row["split"] for index, row in used.items()}
    return find_leaks(_to_table(outcomes), near_duplicates(hashes, splits, config.checks.near_duplicate_bits))


def _corrections(outcomes: Outcomes) -> dict[str, Any]:
    """What became of our models' predictions, told."""
    used = [row for rows in _by_split(outcomes).values() for row in rows]
    corrections = summarize_corrections(used)
    for line in describe_corrections(corrections):
        LOGGER.info("%s", line)
    return corrections


def _which_files(config: PrepareConfig) -> str:
    table = config.private_table or "/a/file/outside/of/out.csv"
    return (
        f"Which files these are tells private_table={table}, for your eyes only; it names the items of the report and "
        "of quarantine.jsonl by their numbers."
    )


def _refusal(outcomes: Outcomes, leaks: list[str], config: PrepareConfig) -> str:
    """Why there can be no data set of this, empty where there can."""
    if not outcomes:
        return "`source` has no item: people have skipped all of its tasks."
    found = [row["findings"][0] for row in outcomes.values() if row["verdict"] == QUARANTINED]
    by_code = ", ".join(f"{code} {count}" for code, count in Counter(each["code"] for each in found).most_common())
    if len(found) > config.max_quarantined_fraction * len(outcomes):
        examples = {each["code"]: f"\n  {each['code']}: {each['detail']}" for each in found}
        return (
            f"{len(found)} of {len(outcomes)} samples cannot be used ({by_code}); max_quarantined_fraction allows "
            f"{config.max_quarantined_fraction:.1%}. Mend the source, or raise max_quarantined_fraction. An example of "
            f"each reason:{''.join(examples.values())}\n  {_which_files(config)}\n"
        )
    if found:
        LOGGER.warning("%d of %d samples quarantined: %s. %s", len(found), len(outcomes), by_code, _which_files(config))
    if leaks:
        return (
            f"The splits are not independent, so that scores would be too good: {len(leaks)} case(s), items counted "
            "from 0. Take the double images out of the source, or put patients that belong together into one split "
            "with split.list_uri.\n  " + "\n  ".join(leaks[:_NUM_LEAKS]) + "\n"
        )
    return check_splits(_counts(outcomes))


def _report(source: Source, outcomes: Outcomes, facts: dict[str, Any], config: PrepareConfig) -> dict[str, bytes]:
    """The files of the report: name -> content."""
    report = build_report(_to_table(outcomes), facts)
    pictures = draw_pictures({record.index: record for record in source.records}, outcomes, config)
    files = {
        "report.json": json.dumps(report, indent=1).encode(),
        "report.html": render_report(report, pictures),
        write.QUARANTINE: write.to_quarantine_lines(outcomes.values(), source.places),
    }
    return files | _sheet(pictures)


def _sheet(pictures: ReportPictures) -> dict[str, bytes]:
    if not pictures.contact:
        return {}
    sheet = with_legend(contact_sheet(pictures.contact, _SHEET_COLUMNS), pictures.colours)
    return {"contact_sheet.png": to_png(sheet)}


def _write_data_set(
    tasks: list[Task],
    outcomes: Outcomes,
    facts: dict[str, Any],
    report_files: Mapping[str, bytes],
    config: PrepareConfig,
) -> str:
    shards = write.plan_shards(tasks, outcomes)
    write.clear(config.out, keep=[shard.name for shard in shards])
    written = write.write_shards(shards, config)
    _write_files(config.out, report_files)
    files = {each["name"]: {"sha256": each["sha256"], "size": each["size"]} for each in written}
    data_sha256 = manifest.digest({"files": files})
    counts = _counts(outcomes)
    num_rows = {each["name"]: each["rows"] for each in written}
    used = _to_table({index: row for index, row in outcomes.items() if row["split"]})
    found = {"counts": counts, "num_rows": num_rows, KINDS: _kinds(outcomes)}
    found |= {"annotators": annotators(used), "pixel_spacing_mm": pixel_spacing(used)}
    content = manifest.to_json(files, facts | found)
    storage.write_bytes(storage.join(config.out, MANIFEST), content)
    for split, count in counts.items():
        LOGGER.info("%s: %s", split, ", ".join(f"{number} {what}" for what, number in count.items()))
    reused = sum(each["reused"] for each in written)
    LOGGER.info("%d of %d files were there from an earlier run", reused, len(written))
    LOGGER.info("prepared data set written, data_sha256 %s", data_sha256)
    if not facts["has_pseudonym_key"]:
        LOGGER.warning("WARNING: %s", WITHOUT_A_KEY)
    return data_sha256


def _warn_again(notes: list[str]) -> None:
    """Of what was told before the samples were written, at the end, where a user looks."""
    for note in notes:
        LOGGER.warning("WARNING: %s", note)


def _write_files(folder: str, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        storage.write_bytes(storage.join(folder, name), content)


def _by_split(outcomes: Outcomes) -> dict[str, list[dict[str, Any]]]:
    """The rows of the samples that are in the data set."""
    return {split: [row for row in outcomes.values() if row["split"] == split] for split in SPLITS}


def _kinds(outcomes: Outcomes) -> dict[str, list[dict[str, Any]]]:
    """Split -> which image sizes and phrases its samples have (see data/sample_kinds.py)."""
    return {
        split: [
            kind._asdict()
            for kind in distinct_kinds(
                SampleKind(row["height"], row["width"], tuple(row["phrases"]), is_negative=not row["num_objects"])
                for row in rows
            )
        ]
        for split, rows in _by_split(outcomes).items()
    }


def _counts(outcomes: Outcomes) -> Counts:
    return {
        split: {
            "samples": len(rows),
            "patients": len({row["patient_id"] for row in rows}),
            "objects": sum(row["num_objects"] for row in rows),
            "negatives": sum(not row["num_objects"] for row in rows),
        }
        for split, rows in _by_split(outcomes).items()
    }


def _facts(source: Source, key: PseudonymKey, config: PrepareConfig) -> dict[str, Any]:
    """How the data set was made. Not `source`, `split.list_uri` and the patterns: they may name patients."""
    return {
        "layouts": source.layouts,
        "num_items": source.num_items,
        "files_not_read": source.unread,
        "source_notes": source.notes,
        "has_label_pattern": config.label_pattern is not None,
        "has_pairs": config.pairs is not None,
        "split": config.split.model_dump(exclude={"list_uri"}) | {"by_list": config.split.list_uri is not None},
        "has_pseudonym_key": key.is_kept,
        "checks": config.checks.model_dump(),
        "classes": list(config.classes),
        "num_ignored_labels": len(config.ignore_labels),
        "on_crowd": config.on_crowd,
        "negatives": config.negatives,
        "consensus": config.annotators,
        "has_negatives_list": config.negatives_list is not None,
        "max_quarantined_fraction": config.max_quarantined_fraction,
        "version": __version__,
    }


def _to_table(outcomes: Outcomes) -> pa.Table:
    return pa.Table.from_pylist(list(outcomes.values()), schema=examine.SCHEMA)
