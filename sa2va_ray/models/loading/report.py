"""The report of a load: what was taken, merged, missing and so on, module by module."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from sa2va_ray.models.parts import MODULES, OTHER_MODULE, module_of


@dataclass(frozen=True)
class ModuleReport:
    """Names of one module's tensors, ours but for `unexpected`.

    Attributes:
        loaded: taken from the source; where a later source has them too, that one's are used.
        merged: weights that a LoRA adapter of the source was folded into.
        mismatched: in the source with another shape, so not taken; as "name: its shape, not ours".
        missing: not in the source.
        unexpected: in the source with a name that the model does not have.
        fresh: in no source, so newly initialised.
    """

    loaded: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()


COLUMNS = tuple(column.name for column in fields(ModuleReport))


@dataclass(frozen=True)
class SourceReport:
    """What one source gave to the load, by module in the order of `MODULES`; modules without a tensor are left out."""

    role: str
    location: str
    modules: dict[str, ModuleReport]

    def names(self, column: str) -> tuple[str, ...]:
        """The tensor names in one column, of all modules."""
        return tuple(name for module in self.modules.values() for name in getattr(module, column))


@dataclass(frozen=True)
class LoadReport:
    """Attributes:
    sources: in the order in which they were laid over each other.
    total: where all tensors of the model came from in the end; never any `missing`.
    """

    sources: tuple[SourceReport, ...]
    total: SourceReport

    def table(self) -> str:
        return "\n".join(_table(source) for source in (*self.sources, self.total))


def source_report(role: str, location: str, **columns: Iterable[str]) -> SourceReport:
    """Sorts the names in each column by module."""
    names = {column: list(names) for column, names in columns.items()}
    modules = {}
    for module in (*MODULES, OTHER_MODULE):
        own = {column: tuple(n for n in names[column] if module_of(n.split(":")[0]) == module) for column in names}
        if any(own.values()):
            modules[module] = ModuleReport(**own)
    return SourceReport(role, location, modules)


def some(names: Sequence[str], limit: int = 4) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _table(source: SourceReport) -> str:
    rows = [f"{source.role}: {source.location}", " ".join(["  module".ljust(20), *(c.rjust(10) for c in COLUMNS)])]
    for module, report in source.modules.items():
        counts = (str(len(getattr(report, column)) or "-").rjust(10) for column in COLUMNS)
        rows.append(" ".join([f"  {module}".ljust(20), *counts]))
    for module, report in source.modules.items():
        if report.mismatched and not (report.loaded or report.merged):
            rows.append(f"  nothing of {module} fits: {report.mismatched[0]}")
        elif report.mismatched:
            rows.append(f"  of {module} only part fits: {some(report.loaded or report.merged)}")
        if report.unexpected:
            rows.append(f"  unexpected: {some(report.unexpected)}")
    return "\n".join(rows)
