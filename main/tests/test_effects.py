"""What a flow does to the world outside: a step with a key that is the same on every try and every attempt."""

from collections.abc import Callable

import httpx
import pytest

from main.errors import FlowError
from main.run import MAX_EFFECT_KEY_LENGTH, Run
from main.tests.memory import Channel, Journal

pytestmark = pytest.mark.usefixtures("quick_retries")


class Receiver:
    """Someone outside who honours keys, as Stripe does: a key that was seen changes nothing."""

    def __init__(self, *answers: Exception | None) -> None:
        self.asked: list[str] = []
        self.applied: dict[str, int] = {}
        self._answers = list(answers)

    def __call__(self, key: str) -> int:
        self.asked.append(key)
        receipt = self.applied.setdefault(key, len(self.applied) + 1)
        if self._answers and (error := self._answers.pop(0)):
            raise error
        return receipt


def lost() -> FlowError:
    return FlowError("The answer was lost.", type="unavailable", retryable=True)


def test_an_effect_is_a_step_that_is_called_with_its_key(
    new_run: Callable[..., Run], journal: Journal, channel: Channel
) -> None:
    pay = Receiver()
    assert new_run().effect("Pay", pay) == 1
    assert pay.asked == ["7:Pay"]
    assert (journal["Pay"].name, journal["Pay"].result) == ("Pay", 1)
    assert channel.logs == ["▶ Pay"]


def test_a_finished_effect_is_not_done_again(new_run: Callable[..., Run]) -> None:
    pay = Receiver()
    assert [new_run(attempt=attempt).effect("Pay", pay) for attempt in (1, 2)] == [1, 1]
    assert pay.asked == ["7:Pay"]


def test_every_try_has_the_same_key(new_run: Callable[..., Run]) -> None:
    pay = Receiver(lost(), lost())
    assert new_run().effect("Pay", pay) == 1
    assert pay.asked == ["7:Pay"] * 3
    assert pay.applied == {"7:Pay": 1}


def test_an_attempt_after_a_crash_has_the_same_key(
    new_run: Callable[..., Run], journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """The worker's end between the call and its record."""

    def kill(step: object) -> None:
        raise Killed

    pay = Receiver()
    with monkeypatch.context() as patch:
        patch.setattr(journal, "record", kill)
        with pytest.raises(Killed):
            new_run().effect("Pay", pay)
    assert new_run(attempt=2).effect("Pay", pay) == 1
    assert pay.asked == ["7:Pay"] * 2
    assert pay.applied == {"7:Pay": 1}


def test_effects_of_one_name_are_told_apart_by_their_order(new_run: Callable[..., Run]) -> None:
    pay = Receiver()
    run = new_run()
    assert [run.effect("Pay", pay) for _ in range(3)] == [1, 2, 3]
    assert pay.asked == ["7:Pay", "7:Pay#2", "7:Pay#3"]


def test_an_effect_inside_a_step_that_is_tried_again_keeps_its_key(new_run: Callable[..., Run]) -> None:
    pay, after = Receiver(), Receiver(lost())
    run = new_run()

    def order() -> int:
        first, second = run.effect("Pay", pay), run.effect("Pay", pay)
        after("")
        return first + second

    assert run.step("Order", order) == 3
    assert pay.asked == ["7:Order/Pay", "7:Order/Pay#2"]


def test_an_execution_that_continues_another_uses_its_keys(new_run: Callable[..., Run]) -> None:
    pay = Receiver()
    new_run(effect_scope="4").effect("Pay", pay)
    assert pay.asked == ["4:Pay"]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Send the invoice", "7:Send the invoice"),
        ("a/b", "7:a%2Fb"),
        ("100 %", "7:100 %25"),
        ("Pagar señal", "7:Pagar se%C3%B1al"),
        ("Pagar se%C3%B1al", "7:Pagar se%25C3%25B1al"),
    ],
)
def test_any_name_makes_a_key_that_a_header_takes(new_run: Callable[..., Run], name: str, key: str) -> None:
    pay = Receiver()
    new_run().effect(name, pay)
    assert pay.asked == [key]
    assert httpx.Headers({"Idempotency-Key": key})["Idempotency-Key"] == key


def test_keys_stay_short_and_their_own_however_long_names_are(new_run: Callable[..., Run]) -> None:
    pay = Receiver()
    run = new_run()
    for _ in range(2):
        run.step("語" * 90, lambda: run.effect("語" * 99 + "a", pay) + run.effect("語" * 99 + "b", pay))
    assert len(pay.applied) == 4
    assert max(map(len, pay.asked)) <= MAX_EFFECT_KEY_LENGTH
    assert all(key.startswith("7:") for key in pay.asked)
