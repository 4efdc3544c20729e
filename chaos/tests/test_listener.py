"""What a client makes of single events."""

import orjson
import pytest

from chaos.listener import Listener

STATE = '{"state":"PROGRESS","status":"Running"}'
STEP = '{"step":"Ask","name":"Ask","state":"done"}'
RESULT = '{"state":"SUCCESS","status":"Done","final_result":42}'


def heard(*told: tuple[str, str, str]) -> Listener:
    listener = Listener()
    for each in told:
        listener.hear(*each)
    return listener


def test_events_add_up() -> None:
    listener = heard(("1-1", "state", STATE), ("1-2", "step", STEP))
    shown = listener.hear("end", "result", RESULT)
    assert (shown["state"], shown["details"]["final_result"]) == ("SUCCESS", 42)
    assert [step["name"] for step in shown["details"]["steps"]] == ["Ask"]
    assert listener.contradictions == []


def test_a_snapshot_replaces_what_was_told_and_events_go_on_from_it() -> None:
    whole = orjson.dumps(heard(("1-1", "state", STATE)).hear("1-2", "step", STEP)).decode()
    listener = heard(("1-1", "state", STATE), ("2-2", "snapshot", whole))
    shown = listener.hear("2-3", "progress", '{"progress":50}')
    assert [step["name"] for step in shown["details"]["steps"]] == ["Ask"]
    assert shown["details"]["progress"] == 50
    assert listener.contradictions == []


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        (("1-1", "1-1"), "1-1 was told after 1-1"),
        (("1-2", "1-1"), "1-1 was told after 1-2"),
        (("2-1", "1-5"), "1-5 was told after 2-1"),
        (("1-1", "1-3"), "1-3 was told after 1-1, and nothing in between"),
        (("end", "1-3"), "1-3 was told after the end"),
    ],
)
def test_what_comes_twice_or_too_early_or_leaves_a_gap_is_a_contradiction(
    ids: tuple[str, str], sentence: str
) -> None:
    assert heard(*((id_, "state", STATE) for id_ in ids)).contradictions == [sentence]
