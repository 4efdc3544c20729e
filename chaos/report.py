"""What a run tells: a table of the faults, and the counts that have to be 0."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from chaos.play import Facts
from chaos.verdict import COUNTED, Figures, Finding, counts, figures, slowest_start_without_redis

HEADINGS = ("fault", "injected", "touched", "recovery p50", "p99", "stopped in")
# How many findings of a kind are told in full.
TOLD = 12


def table(rows: Iterable[Figures]) -> str:
    lines = [HEADINGS, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "| " + " | ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def cells(row: Figures) -> tuple[str, ...]:
    never = f", {row.never} never" if row.never else ""
    return (
        row.kind.name,
        str(row.injected) if row.injected else f"0: {row.skipped}",
        str(row.touched),
        seconds(row.percentile(50)),
        seconds(row.percentile(99)) + never,
        seconds(row.stopped_in),
    )


def seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


def summary(facts: Facts, findings: list[Finding]) -> str:
    """Return the table, the figures beside it, and what was found, as text."""
    rows = sorted(figures(facts), key=lambda row: row.kind.name)
    ends = Counter(row.state for row in facts.rows)
    versions = Counter(row.result["version"] for row in facts.rows if isinstance(row.result, dict))
    slowest = slowest_start_without_redis(facts)
    lines = [
        table(rows),
        "",
        f"{len(facts.started)} executions: "
        + ", ".join(f"{count} {state}" for state, count in sorted(ends.items()))
        + "; ended by "
        + ", ".join(f"version {version}: {count}" for version, count in sorted(versions.items())),
        f"{len(facts.calls)} calls of the provider, {sum(call.applied for call in facts.calls)} effects applied",
        f"{len(facts.outbox)} mails asked for, {len(facts.mails)} arrived, of these {again(facts)} for the second time",
        f"slowest start without Redis: {seconds(slowest) or 'none was asked for'}",
        "",
        *told(findings),
        ", ".join(f"{name}: {count}" for name, count in counts(findings).items()),
    ]
    return "\n".join(lines)


def again(facts: Facts) -> int:
    return len(facts.mails) - len({mail.message_id for mail in facts.mails})


def uncaught(logs: Path) -> list[str]:
    """Return what ended threads of our processes: nothing should, whatever is away."""
    found = Counter(
        f"{log.stem}: {line}"
        for log in sorted(logs.glob("*-[0-9].log"))
        for line in log.read_text(errors="replace").splitlines()
        if line.startswith("Exception in thread")
    )
    return [f"{line} ({count} times)" for line, count in found.items()]


def told(findings: list[Finding]) -> list[str]:
    lines = []
    for count in COUNTED:
        sentences = [f"{count}: {each.about} {each.sentence}" for each in findings if each.counted == count]
        lines += sentences[:TOLD]
        if len(sentences) > TOLD:
            lines.append(f"{count}: {len(sentences) - TOLD} more")
    return [*lines, ""] if lines else []
