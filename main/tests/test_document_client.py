"""A client that knows the first description of the API alone runs against the server as it is."""

from typing import Any

import pytest
from playwright.sync_api import Page

from main.tests.platform import Platform

# The JavaScript of the document; only what it leaves out is added: the POST, the cookie, a place for the updates.
CLIENT = """<!doctype html><title>Client</title><script>
const updates = [];
let closed = false;

async function run(flow, inputs) {
    const csrfToken = document.cookie.match(/csrftoken=([^;]+)/)[1];
    const response = await fetch('/start-task/', {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', 'X-CSRFToken': csrfToken },
        body: JSON.stringify({ flow, inputs })
    });
    const answer = await response.json();
    if (!response.ok) return answer;

    // Obtén el task_id de la respuesta del endpoint /start-task/
    const taskId = answer.task_id;
    const eventSource = new EventSource(`/task-status/${taskId}/`);

    eventSource.onmessage = function(event) {
        // Parsea los datos JSON que llegan en cada evento
        const data = JSON.parse(event.data);
        console.log("Nueva actualización:", data);

        // Aquí va tu lógica para actualizar la UI con la nueva información
        updates.push(data);

        // Si la tarea ha terminado, cierra la conexión para ahorrar recursos
        if (data.state === 'SUCCESS' || data.state === 'FAILURE') {
            eventSource.close();
            closed = true;
        }
    };

    eventSource.onerror = function(error) {
        console.error("Error en la conexión SSE:", error);
        eventSource.close();
    };
    return answer;
}
</script>"""


@pytest.fixture
def client(platform: Platform, page: Page) -> Page:
    page.goto(platform.url)  # sets the cookie
    page.route("**/client.html", lambda route: route.fulfill(body=CLIENT, content_type="text/html"))
    page.goto(f"{platform.url}/client.html")
    return page


def run(client: Page, flow: str, inputs: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all updates that the client got until it closed the connection."""
    answer = client.evaluate("([flow, inputs]) => run(flow, inputs)", [flow, inputs])
    assert list(answer) == ["task_id"]
    client.wait_for_function("closed")
    updates: list[dict[str, Any]] = client.evaluate("updates")
    progress = [update["details"]["progress"] for update in updates]
    assert progress == sorted(progress)
    return updates


def test_it_runs_the_poem_flow(client: Page) -> None:
    updates = run(client, "poem_flow", {})
    assert {update["state"] for update in updates} <= {"PENDING", "PROGRESS", "SUCCESS"}
    details = updates[-1]["details"]
    assert updates[-1]["state"] == "SUCCESS"
    assert details["progress"] == 100
    assert details["status"]
    assert details["final_result"]


def test_it_runs_the_web_search_flow_and_gets_the_tools_results(client: Page) -> None:
    details = run(client, "web_search_flow", {"question": "How do I add a flow of my own?"})[-1]["details"]
    assert {entry["type"] for entry in details["step_results"]} <= {"log", "tool_result"}
    found = [entry for entry in details["step_results"] if entry["type"] == "tool_result"]
    assert {"step_name", "tool", "data"} <= set(found[0])
    assert all({"url", "content"} <= set(hit) for hit in found[0]["data"])
    assert details["final_result"]


def test_it_sees_a_failure(client: Page) -> None:
    update = run(client, "failing_flow", {})[-1]
    assert update["state"] == "FAILURE"
    assert update["details"]["status"] == "The story has no end. Try another one."


def test_it_is_told_in_a_sentence_what_was_wrong(client: Page) -> None:
    answer = client.evaluate("run('poem_flwo', {})")
    assert "poem_flow" in answer["error"]
