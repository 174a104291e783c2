"""Which settings may be changed when a run is resumed: the one table, and the comparison by it."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pydantic import ValidationError

from sa2va_ray.config import UserError, with_new_names
from sa2va_ray.models.checkpoint import StoredCheckpoint
from sa2va_ray.train.config import TrainConfig


class Rule(Enum):
    """What is done about a setting that differs from the one that the run's checkpoint was written with."""

    FIXED = "refused: samples, learning rate or weights of the whole run depend on it"
    UNTIL_THE_END = "taken for the steps to come while the run goes on, refused when it is at its end"
    FREE = "taken: it says how the run is run, not what comes out"


RULES: dict[str, Rule] = {
    "data_uri": Rule.FREE,  # where the data lie; what they are is compared by their SHA-256
    "name": Rule.FREE,
    "runs_uri": Rule.FREE,
    "model": Rule.FIXED,
    "precision": Rule.FIXED,
    "seed": Rule.FIXED,
    "num_epochs": Rule.FIXED,
    "repeats": Rule.FIXED,
    "global_batch_size": Rule.FIXED,
    "optim": Rule.UNTIL_THE_END,
    "loss": Rule.UNTIL_THE_END,
    "pipeline": Rule.UNTIL_THE_END,
    "pipeline.actors_per_rank": Rule.FREE,
    "pipeline.cpus_per_actor": Rule.FREE,
    "pipeline.object_store_mib": Rule.FREE,
    "pipeline.max_bad_samples": Rule.FREE,
    "micro_batch_size": Rule.FREE,
    "num_workers": Rule.FREE,
    "min_workers": Rule.FREE,
    "use_gpu": Rule.FREE,
    "paths_are_shared": Rule.FREE,
    "cpus_per_worker": Rule.FREE,
    "strategy": Rule.FREE,
    "activation_checkpointing": Rule.FREE,
    "compile_layers": Rule.FREE,
    "log_every_steps": Rule.FREE,
    "save_every_steps": Rule.FREE,
    "keep_checkpoints": Rule.FREE,
    "keep_best": Rule.FREE,
    "best_metric": Rule.FREE,
    "validation": Rule.FREE,
    "resume": Rule.FREE,
    "plan": Rule.FREE,
    "force": Rule.FREE,
    "max_failures": Rule.FREE,
    "storage_patience_s": Rule.FREE,
    "max_skipped_samples": Rule.FREE,
    "trackers": Rule.FREE,
}
"""Key of `TrainConfig`, or of a part of it -> rule. The longest key that is, or begins, a setting's name decides."""

_NOT_GIVEN = "not given"
_BOUNDS = {"less_than", "less_than_equal", "greater_than", "greater_than_equal"}  # pydantic's names
_OPEN = {"precision": "auto", "strategy": "auto", "micro_batch_size": "auto", "use_gpu": None}


@dataclass(frozen=True)
class SettingChange:
    """A setting with another value than the checkpoint's config.yaml has."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key} was {self.before}, is {self.after}"

    @property
    def rule(self) -> Rule:
        return rule_of(self.key)


def rule_of(key: str) -> Rule:
    """The rule for a setting by its dotted name."""
    while key not in RULES:
        key, separator, _ = key.rpartition(".")
        assert separator, "each key of TrainConfig is in RULES"
    return RULES[key]


def check_setting_changes(saved: StoredCheckpoint, config: TrainConfig, data_sha256: str) -> list[SettingChange]:
    """The settings that differ from those that a checkpoint was written with.

    Raises:
        UserError: one that may not; with both values.
    """
    changes = _changes(saved, config)
    is_finished = saved.state.step == saved.state.num_steps
    refused_rules = {Rule.FIXED, Rule.UNTIL_THE_END} if is_finished else {Rule.FIXED}
    refused = [str(change) for change in changes if change.rule in refused_rules]
    if saved.state.data_sha256 != data_sha256:
        refused.append(f"the data set of data_uri was {saved.state.data_sha256[:12]}, is {data_sha256[:12]}")
    if refused:
        where = "is at its end" if is_finished else f"stands at step {saved.state.step} of {saved.state.num_steps}"
        raise UserError(
            f"The run {config.name} {where} and was made with other settings: {'; '.join(refused)}. Set them as they "
            "were, or take another name=... for a new run."
        )
    return changes


def _changes(saved: StoredCheckpoint, config: TrainConfig) -> list[SettingChange]:
    before = _settings_before(saved)
    after = _flat(config.model_dump(mode="json"))
    before["precision"] = saved.state.precision
    # What is left open is no change: the driver decides it later, and each worker what precision "auto" is there.
    after |= {key: before[key] for key, is_open in _OPEN.items() if after[key] == is_open}
    return [
        SettingChange(key, before.get(key, _NOT_GIVEN), after.get(key, _NOT_GIVEN))
        for key in sorted(before.keys() | after.keys())
        if before.get(key, _NOT_GIVEN) != after.get(key, _NOT_GIVEN)
    ]


def _settings_before(saved: StoredCheckpoint) -> dict[str, Any]:
    """The checkpoint's config by dotted names of today, with defaults for keys that are newer than it. A number beyond
    a bound that is newer than it is no reason not to go on."""
    values = copy.deepcopy(with_new_names(saved.settings))
    beyond = {key: _pop(values, key) for key in _beyond_bounds(values)}
    try:
        return _flat(TrainConfig.parse(values).model_dump(mode="json")) | beyond
    except UserError as error:
        raise UserError(
            f"{saved.uri} was written by another version of sa2va_ray, with other settings. {error}"
        ) from None


def _beyond_bounds(values: Mapping[str, Any]) -> set[str]:
    """Dotted names of settings that have a number, or one among several, that is too large, or too small, today."""
    try:
        TrainConfig.model_validate(values)
    except ValidationError as error:
        return {_setting_at(values, each["loc"]) for each in error.errors() if each["type"] in _BOUNDS}
    return set()


def _setting_at(values: Any, place: Sequence[str | int]) -> str:
    """Dotted name of the setting at pydantic's place of an error, which may go on with a number's place among several,
    or with a kind of value."""
    names: list[str] = []
    for part in place:
        if not isinstance(values, Mapping) or part not in values:
            break
        values = values[part]
        names.append(str(part))
    return ".".join(names)


def _pop(values: dict[str, Any], key: str) -> Any:
    *parents, last = key.split(".")
    for parent in parents:
        values = values[parent]
    return values.pop(last)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings by their dotted names."""
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        leaves |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {prefix + key: value}
    return leaves
