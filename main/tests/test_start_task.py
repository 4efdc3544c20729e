"""`POST /start-task/`: what is answered to what."""

import uuid
from typing import Any

import pytest

from main.models import Execution
from main.tests.platform import Visitor


def problem(visitor: Visitor, **request: Any) -> tuple[int, dict[str, Any]]:
    response = visitor.post("/start-task/", **request)
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == response.status_code
    assert body["error"] == body["detail"]
    assert body["title"]
    return response.status_code, body


def test_a_start_stores_exactly_one_execution(visitor: Visitor) -> None:
    task_id = visitor.start("count_flow", to=5)
    execution = Execution.objects.get(id=uuid.UUID(task_id))
    assert (execution.flow, execution.inputs) == ("count_flow", {"to": 5})


def test_inputs_may_be_left_out(visitor: Visitor) -> None:
    response = visitor.post("/start-task/", json={"flow": "count_flow"})
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["/start-task/", "/start-task"])
def test_the_slash_at_the_end_does_not_matter(visitor: Visitor, path: str) -> None:
    assert visitor.post(path, json={"flow": "count_flow"}).status_code == 200


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"{flow", "is not JSON"),
        (b"", "“flow” is missing"),
        (b"\xff\xfe", "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b"{}", "“flow” is missing"),
        (b'{"flow": null}', "“flow” is missing"),
        (b'{"flow": 7}', "“flow” is not a string"),
        (b'{"flow": "count_flow", "inputs": [1]}', "“inputs” is not an object"),
        (b'{"flow": "count_flow", "inputs": null}', "“inputs” is not an object"),
        (
            b'{"flow": "count_flow", "inputs": {"to": ' + b"[" * 330 + b"]" * 330 + b"}}",
            "more than 100 levels",
        ),
        (b'{"flow": "count_flow", "prority": "low"}', "“prority” is no field of this request"),
        (b'{"flow": "count_flwo"}', "Did you mean “count_flow”"),
    ],
)
def test_a_body_that_is_wrong_is_a_400_with_a_sentence(visitor: Visitor, body: bytes, sentence: str) -> None:
    status, said = problem(visitor, content=body, headers={"Content-Type": "application/json"})
    assert status == 400
    assert sentence in said["error"]


@pytest.mark.parametrize(
    ("inputs", "field", "sentence"),
    [
        ({}, "question", "“question” is missing."),
        ({"question": ""}, "question", "“question” needs at least 1 character; it has 0."),
        ({"question": "x" * 1001}, "question", "“question” may have at most 1000 characters; it has 1001."),
        ({"question": 7}, "question", "“question”: input should be a valid string."),
        ({"question": "a\x00b"}, "question", "It contains a NUL character."),
        (
            {"question": "x", "extra": 1},
            "extra",
            "“extra” is not an input of web_search_flow; its inputs are “question”.",
        ),
    ],
)
def test_inputs_that_do_not_fit_get_a_sentence_per_field(
    visitor: Visitor, inputs: dict[str, Any], field: str, sentence: str
) -> None:
    status, said = problem(visitor, json={"flow": "web_search_flow", "inputs": inputs})
    assert status == 400
    assert sentence in said["errors"][field]


def test_true_is_no_number(visitor: Visitor) -> None:
    status, said = problem(visitor, json={"flow": "count_flow", "inputs": {"to": True}})
    assert status == 400
    assert "“to”: input should be a valid integer." in said["errors"]["to"]


@pytest.mark.parametrize("token", ["", "wrong" * 8])
@pytest.mark.parametrize("accept", ["application/json", "text/html,*/*"])
def test_without_the_csrf_token_nothing_starts(visitor: Visitor, token: str, accept: str) -> None:
    headers = {"X-CSRFToken": token, "Accept": accept}
    status, said = problem(visitor, json={"flow": "count_flow"}, headers=headers)
    assert status == 403
    assert "CSRF" in said["error"]


def test_a_flow_that_is_not_public_is_refused_to_a_visitor(visitor: Visitor) -> None:
    status, said = problem(visitor, json={"flow": "members_flow"})
    assert status == 403
    assert said["error"] == "“Members only” is not open to visitors. Sign in to run it."


def test_a_flow_without_its_key_is_a_conflict(visitor: Visitor) -> None:
    status, said = problem(visitor, json={"flow": "needs_key_flow"})
    assert status == 409
    assert "TAVILY_API_KEY" in said["error"]


def test_another_method_is_refused_with_the_allowed_ones(visitor: Visitor) -> None:
    response = visitor.get("/start-task/")
    assert response.status_code == 405
    assert "POST" in response.headers["allow"]
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
def test_a_body_over_a_mebibyte_is_refused(visitor: Visitor, declared: bool) -> None:
    body = b'{"flow": "count_flow", "inputs": {"x": "' + b"x" * 1024 * 1024 + b'"}}'
    status, said = problem(visitor, content=body if declared else iter([body[:70000], body[70000:]]))
    assert status == 413
    assert "1048576 bytes" in said["error"]


def test_a_body_of_a_mebibyte_is_read(visitor: Visitor) -> None:
    frame = b'{"flow": "count_flow"}'
    body = frame[:-1] + b" " * (1024 * 1024 - len(frame)) + frame[-1:]
    assert len(body) == 1024 * 1024
    assert visitor.post("/start-task/", content=body).status_code == 200
