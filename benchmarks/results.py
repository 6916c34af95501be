"""What benchmarks measured: rows in sections, as JSON and as a page of Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from copytrace.runtime import usable_cores
from copytrace.summary import package_versions

BUSY = 0.5  # load of other processes from which a machine counts as shared

Figure = float | int | str | None


@dataclass(frozen=True)
class Row:
    """A line of a table: what was measured, and its figures by the names of their columns."""

    name: str
    figures: Mapping[str, Figure]


@dataclass(frozen=True)
class Section:
    """A table with its title, and a sentence or two that say what its columns mean."""

    title: str
    text: str
    rows: Sequence[Row]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Section:
        """Return the section that `to_json` wrote."""
        return cls(content["title"], content["text"], [Row(**row) for row in content["rows"]])

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @property
    def columns(self) -> list[str]:
        """The names of all columns but the first, in the order in which they first appear."""
        return list(dict.fromkeys(column for row in self.rows for column in row.figures))


def beside_limit(name: str, ours: float, limit: float, unit: str, what: str) -> Row:
    """Return the row of a stage and of what it could reach at best: more is better in both."""
    figures: dict[str, Figure] = {"Copytrace": ours, "at best": limit, "share of it": ours / limit}
    return Row(name, figures | {"unit, of one core": unit, "the limit": what})


def machine() -> dict[str, Any]:
    """Return what the figures depend on besides the code: processor, cores, memory, load and versions."""
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "load_at_start": round(os.getloadavg()[0], 1),
        "versions": package_versions(),
    }


def show(section: Section, width: int | None = None) -> None:
    """Print a section as a table, of `width` columns or as wide as the terminal."""
    table = Table("", *section.columns, title=section.title, caption=section.text)
    for row in section.rows:
        table.add_row(row.name, *(_text(column, row.figures.get(column)) for column in section.columns))
    Console(width=width).print(table)


def to_markdown(results: Mapping[str, Any]) -> str:
    """Return the page of all results."""
    here, versions = results["machine"], results["machine"]["versions"]
    lines = [
        "# Benchmarks",
        "",
        f"Written by `make {results['command']}` in {results['seconds'] / 60:.0f} minutes, of which it had a core for "
        f"{results['processor_seconds'] / 60:.0f}; [results.json](results.json) has the same figures.",
        "",
        "Times are those of the processor, unless a table says otherwise: what one core does, whatever else runs. The "
        "rows of a table were measured in one run, in turn.",
        "",
        f"**Machine**: {here['processor']}, {here['cores']} cores, {here['memory_gib']:g} GiB, {here['system']}; "
        f"no GPU was used. **Data**: {results['data']}. **Versions**: "
        + ", ".join(f"{name} {found}" for name, found in versions.items())
        + ".",
    ]
    if here["load_at_start"] > BUSY:
        lines += [
            "",
            f"> The machine was shared: when the run began, other processes put a load of {here['load_at_start']:g} on "
            f"its {here['cores']} cores. As they share caches and memory, an idle machine is faster; shares and ratios "
            "suffer less.",
        ]
    for content in results["sections"]:
        lines += ["", *section_lines(Section.from_json(content))]
    if results["failed"]:
        lines += ["", f"**Failed**: {', '.join(results['failed'])}."]
    return "\n".join(lines) + "\n"


def section_lines(section: Section) -> list[str]:
    """Return a section as lines of Markdown."""
    numeric = {
        column: not any(isinstance(row.figures.get(column), str) for row in section.rows) for column in section.columns
    }
    lines = [f"## {section.title}", "", section.text, "", f"| | {' | '.join(section.columns)} |"]
    lines.append(f"|---|{'|'.join('---:' if numeric[column] else '---' for column in section.columns)}|")
    for row in section.rows:
        cells = [_text(column, row.figures.get(column)) for column in section.columns]
        name = f"**{row.name}**" if row.name.startswith("Copytrace") else row.name
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _text(column: str, value: Figure) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if "share" in column:
        return f"{value:.0%}"
    if isinstance(value, int):
        return f"{value:,}"
    decimals = next(number for least, number in ((100, 0), (10, 1), (1.001, 2), (0, 3)) if abs(value) >= least)
    return f"{value:,.{decimals}f}"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text("utf-8").splitlines() if information.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
