"""As much of PromQL as alert rules use, evaluated on two scrapes of a server: whether a rule fires, not only that it parses."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from operator import ge, gt, lt
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
METRIC = re.compile(r"\blmx_[a-z0-9_]+")
SELECTED = re.compile(r'(lmx_[a-z0-9_]+)\{(\w+)(=~?)"([^"]*)"\}')
_SERIES = re.compile(r'(lmx_[a-z0-9_]+)(?:\{(\w+)(=~?)"([^"]*)"\})?(\[\w+\])?')

Labels = frozenset[tuple[str, str]]
Scrape = Mapping[tuple[str, Labels], float]


def scraped(text: str) -> Scrape:
    """Every sample of an answer in text format, by name and labels."""
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def alert_rules() -> Iterator[tuple[str, str]]:
    """Name and expression of every rule that is shipped."""
    for group in yaml.safe_load((MONITORING / "prometheus-alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


class Vector(dict[Labels, float]):
    """A value for each set of labels; a comparison keeps those for which it holds."""

    def _kept(self, compare: Callable[[Any, Any], bool], other: "float | Vector") -> "Vector":
        against = other if isinstance(other, Vector) else dict.fromkeys(self, other)
        return Vector(
            {labels: value for labels, value in self.items() if labels in against and compare(value, against[labels])}
        )

    def __gt__(self, other: "float | Vector") -> "Vector":  # type: ignore[override]  # PromQL's, not Python's
        return self._kept(gt, other)

    def __ge__(self, other: "float | Vector") -> "Vector":  # type: ignore[override]  # PromQL's, not Python's
        return self._kept(ge, other)

    def __lt__(self, other: "float | Vector") -> "Vector":  # type: ignore[override]  # PromQL's, not Python's
        return self._kept(lt, other)

    def __truediv__(self, other: "Vector") -> "Vector":
        return Vector({labels: value / other[labels] for labels, value in self.items() if labels in other})


def selects(operator: str, wanted: str, value: str) -> bool:
    """Whether a label's value is one that a selector wants."""
    return re.fullmatch(wanted, value) is not None if operator == "=~" else value == wanted


def firing(expression: str, before: Scrape, now: Scrape, seconds: float) -> Vector:
    """What a rule finds on these two scrapes, `seconds` apart: it fires when that is not empty."""

    def series(name: str, label: str | None, operator: str, wanted: str, is_range: bool) -> Vector:
        found = Vector()
        for (known, labels), value in now.items():
            if known != name or (label is not None and not selects(operator, wanted, dict(labels).get(label, ""))):
                continue
            # What did not exist before counts from zero, as LMX starts its counters.
            found[labels] = value - before.get((known, labels), 0.0) if is_range else value
        return Vector({labels: value for labels, value in found.items() if not math.isnan(value)})

    def as_call(match: re.Match[str]) -> str:
        name, label, operator, wanted, span = match.groups()
        return f"series({name!r}, {label!r}, {operator or ''!r}, {wanted or ''!r}, {span is not None})"

    vocabulary: dict[str, Any] = {
        "series": series,
        "increase": lambda vector: vector,
        "rate": lambda vector: Vector({labels: value / seconds for labels, value in vector.items()}),
        "clamp_min": lambda vector, least: Vector({labels: max(value, least) for labels, value in vector.items()}),
        "max": lambda vector: _over_all(vector, max),
        "sum": lambda vector: _over_all(vector, sum),
        "max_by_model": lambda vector: vector,
    }
    parts = [_SERIES.sub(as_call, part).replace("max by (model) ", "max_by_model") for part in expression.split(" and ")]
    first, *others = (eval(part, {"__builtins__": {}}, vocabulary) for part in parts)  # noqa: S307 - our own rules
    return Vector({labels: value for labels, value in first.items() if all(labels in other for other in others)})


def _over_all(vector: Vector, reduce: Callable[[Any], float]) -> Vector:
    return Vector({frozenset(): reduce(vector.values())}) if vector else Vector()
