"""The platform of tests itself: there is one in a session, and it runs again after a test that harmed it."""

import pytest

import main.tests.platform as platforms
from main.tests.platform import Platform, Visitor


def test_a_second_platform_on_the_same_databases_is_refused(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platforms, "PATIENCE", 0.0)
    with pytest.raises(AssertionError, match="another web is running"):
        Platform()


def test_a_process_that_a_test_left_dead_runs_again(platform: Platform, visitor: Visitor) -> None:
    for name in ("web", "worker-io", "worker-cpu", "worker-notifications"):
        platform[name].kill()
    platform.revive()
    assert visitor.run("count_flow")["state"] == visitor.run("cpu_count_flow")["state"] == "SUCCESS"
