"""What a watcher was shown has to hold. Pure: a witness sees one snapshot after the other, and notes contradictions.

Not a contradiction: the entries and the text of a step that was not finished are replaced when it begins again;
old entries are left out of a large snapshot (`omitted`); what only Redis knew of an unfinished step may be
forgotten with it.
"""

from dataclasses import dataclass, field
from typing import Any

Snapshot = dict[str, Any]
Entry = dict[str, Any]

FINAL = ("SUCCESS", "FAILURE")


@dataclass
class Witness:
    """Everything one watcher was shown of an execution, over all its connections."""

    contradictions: list[str] = field(default_factory=list)
    last: Snapshot | None = None
    final: Snapshot | None = None
    # The entries of each step when it was first shown as done.
    _finished: dict[str, list[Entry]] = field(default_factory=dict)

    def see(self, snapshot: Snapshot) -> None:
        """Note where a snapshot contradicts what was shown before."""
        self._see_end(snapshot)
        self._see_progress(snapshot)
        self._see_entries(snapshot)
        for step in snapshot["details"]["steps"]:
            self._see_step(step, snapshot)
        self._see_finished(snapshot)
        self.last = snapshot
        self.final = self.final or (snapshot if snapshot["state"] in FINAL else None)

    def _note(self, sentence: str) -> None:
        if sentence not in self.contradictions:
            self.contradictions.append(sentence)

    def _see_end(self, snapshot: Snapshot) -> None:
        if self.final and _ending(snapshot) != _ending(self.final):
            self._note(f"the end was {_ending(self.final)}, and then {_ending(snapshot)}")

    def _see_progress(self, snapshot: Snapshot) -> None:
        before = self.last["details"]["progress"] if self.last else 0
        if snapshot["details"]["progress"] < before:
            self._note(f"progress fell from {before} to {snapshot['details']['progress']}")

    def _see_entries(self, snapshot: Snapshot) -> None:
        keys = [(entry["step"], entry["n"]) for entry in snapshot["details"]["step_results"]]
        for step, n in sorted({key for key in keys if keys.count(key) > 1}):
            self._note(f"entry {n} of “{step}” was shown twice")

    def _see_step(self, step: dict[str, Any], snapshot: Snapshot) -> None:
        key = step["step"]
        if step["state"] == "done":
            self._finished.setdefault(key, _entries(snapshot, key))
        elif key in self._finished:
            self._note(f"“{key}” was done, and then {step['state']}")
        elif self._began_again_unsaid(step, snapshot):
            self._note(f"“{key}” began again, and did not say so")

    def _began_again_unsaid(self, step: dict[str, Any], snapshot: Snapshot) -> bool:
        """Whether what a running step had shown is gone, while it runs and says nothing of a restart."""
        if step["state"] != "running" or step.get("restarted") or not self.last:
            return False
        known = _entries(self.last, step["step"])
        return _entries(snapshot, step["step"])[: len(known)] != known

    def _see_finished(self, snapshot: Snapshot) -> None:
        shown = {step["step"] for step in snapshot["details"]["steps"]}
        for key, entries in self._finished.items():
            if key not in shown:
                self._note(f"“{key}” was done, and then was not there")
            now = _entries(snapshot, key)
            kept = entries[len(entries) - len(now) :] if snapshot["details"].get("omitted") else entries
            if now != kept:
                self._note(f"the entries of “{key}” were {_brief(kept)}, and then {_brief(now)}")


def _entries(snapshot: Snapshot, step: str) -> list[Entry]:
    return [entry for entry in snapshot["details"]["step_results"] if entry["step"] == step]


def _ending(snapshot: Snapshot) -> str:
    """Return state and outcome in a line."""
    details = snapshot["details"]
    return f"{snapshot['state']} {details.get('error') or details.get('final_result')}"


def _brief(entries: list[Entry]) -> list[str]:
    return [str(entry.get("message", entry.get("data"))) for entry in entries]
