"""The admin: what it shows, what it lets whom do, and what that costs."""

import uuid
from dataclasses import replace
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from accounts.models import User
from main import execution_pages
from main.channel import history
from main.events import Entry as EntryView
from main.models import Entry, Execution, Step, WorkerBeat
from main.registry import FLOW_REGISTRY, get_flow, load_flows
from main.tests.admin_pages import (
    STAFF,
    act,
    expect_nothing_inline,
    expect_sign_in,
    messages_of,
    permit,
    text_of,
)

LIST = "/admin/main/execution/"
VISITOR = uuid.UUID(int=1)


@pytest.fixture(autouse=True)
def flows() -> None:
    load_flows(["main.flows"])


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_superuser("alice@example.com", "correct horse battery")


@pytest.fixture
def admin_pages(alice: User, client: Client) -> Client:
    client.force_login(alice)
    return client


def started(flow: str = "poem_flow", owner: User | None = None, **inputs: Any) -> Execution:
    return Execution.start(
        get_flow(flow), inputs, owner_id=owner.pk if owner else None, visitor=None if owner else VISITOR
    )


def running(flow: str = "poem_flow", **inputs: Any) -> Execution:
    """Start and claim; nothing else of its kind may be waiting."""
    started(flow, **inputs)
    claimed = Execution.claim_next("io", "host/12/34")
    assert claimed
    return claimed


def finished(
    result: Any = "Roses are red", entries: list[EntryView] | None = None, **options: Any
) -> Execution:
    execution = running()
    execution.finish(result=result, entries=enumerate(entries or [], start=1), **options)
    execution.refresh_from_db()
    return execution


def failed(**error: Any) -> Execution:
    detail = {"type": "provider", "message": "The provider is away.", "retryable": True, **error}
    return finished(result=None, error=detail)


def log(n: int, message: str, step: str = "") -> EntryView:
    return {"type": "log", "step": step, "n": n, "message": message}


def tool_result(n: int, data: Any) -> EntryView:
    return {
        "type": "tool_result",
        "step": "",
        "n": n,
        "step_name": "Search the web",
        "tool": "lookup",
        "data": data,
    }


def keep_step(execution: Execution, key: str, **fields: Any) -> Step:
    now = execution.started_at
    assert now
    return Step.objects.create(
        execution=execution,
        key=key,
        name=key,
        attempt=1,
        result="kept",
        started_at=now,
        finished_at=now,
        **fields,
    )


def page_of(execution: Execution) -> str:
    return reverse("admin:main_execution_change", args=[execution.id])


def ids_found(client: Client, query: str) -> set[uuid.UUID]:
    response = client.get(LIST, {"q": query})
    assert response.status_code == 200
    return {execution.id for execution in response.context["cl"].result_list}


# The list


def test_the_list_shows_flow_state_owner_and_how_long_it_took(admin_pages: Client, alice: User) -> None:
    finished()
    started(owner=alice)
    page = text_of(admin_pages, LIST)
    assert "Poem" in page
    assert '<span class="state state-success"><span aria-hidden="true">✓</span> succeeded</span>' in page
    assert '<span class="state state-pending"><span aria-hidden="true">…</span> pending</span>' in page
    assert "alice@example.com" in page
    assert "visitor" in page
    assert "0.0 s" in page


def test_the_list_names_the_worker_only_while_it_runs(admin_pages: Client) -> None:
    execution = running()
    assert "host/12/34" in text_of(admin_pages, LIST)
    execution.finish(result="")
    assert "host/12/34" not in text_of(admin_pages, LIST)


def test_the_list_costs_the_same_for_3_and_for_30_rows(
    admin_pages: Client, alice: User, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for count in (3, 27):
        for _ in range(count):
            started(owner=alice)
        # Session, user, how many, the rows.
        with django_assert_num_queries(4):
            admin_pages.get(LIST)
    assert Execution.objects.count() == 30


def test_the_list_leaves_large_columns_in_the_database(admin_pages: Client) -> None:
    finished(result="x" * 1000)
    with CaptureQueriesContext(connection) as queries:
        admin_pages.get(LIST)
    rows = next(
        query["sql"] for query in queries if "ORDER BY" in query["sql"] and "main_execution" in query["sql"]
    )
    assert '"created_at"' in rows
    assert '"result"' not in rows


def test_the_list_stops_counting_and_says_so(admin_pages: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution_pages.BoundedPaginator, "limit", 3)
    for _ in range(4):
        started()
    assert "3 executions or more." in text_of(admin_pages, LIST)
    Execution.objects.filter(id__in=Execution.objects.values("id")[:2]).delete()
    assert "2 executions" in text_of(admin_pages, LIST)


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("state__exact=SUCCESS", 1),
        ("state__exact=FAILURE", 0),
        ("flow=poem_flow", 1),
        ("flow=web_search_flow", 1),
        ("flow=gone_flow", 0),
        ("kind=io", 2),
        ("kind=cpu", 0),
        ("created_at__gte=2020-01-01+00%3A00%3A00%2B00%3A00", 2),
        ("created_at__gte=2999-01-01+00%3A00%3A00%2B00%3A00", 0),
    ],
)
def test_the_list_filters_by_state_flow_kind_and_time(admin_pages: Client, query: str, count: int) -> None:
    finished()
    started("web_search_flow", question="Why is the sky blue?")
    response = admin_pages.get(f"{LIST}?{query}")
    assert len(response.context["cl"].result_list) == count


def test_the_list_is_searched_by_id_flow_owner_and_inputs(admin_pages: Client, alice: User) -> None:
    poem = started(owner=alice)
    search = started("web_search_flow", question='Why is the "sky" blue in Málaga?')
    assert ids_found(admin_pages, str(poem.id)) == {poem.id}
    assert ids_found(admin_pages, poem.id.hex.upper()) == {poem.id}
    assert poem.id in ids_found(admin_pages, str(poem.id)[:11])
    assert ids_found(admin_pages, "web_search") == {search.id}
    assert ids_found(admin_pages, '"Web search"') == {search.id}
    assert ids_found(admin_pages, "ALICE@example") == {poem.id}
    assert ids_found(admin_pages, "málaga") == {search.id}
    assert ids_found(admin_pages, "'\"sky\" blue'") == {search.id}
    assert ids_found(admin_pages, "blue alice") == set()
    assert ids_found(admin_pages, "100% _") == set()
    assert ids_found(admin_pages, '"') == {search.id}


# The page of one execution


def test_the_page_shows_inputs_result_usage_and_model(admin_pages: Client) -> None:
    execution = running("web_search_flow", question="Why <b>blue</b>?")
    execution.finish(result="Because\nof <i>light</i>", usage={"output_tokens": 1234}, chat_model="demo")
    page = text_of(admin_pages, page_of(execution))
    assert "&quot;question&quot;: &quot;Why &lt;b&gt;blue&lt;/b&gt;?&quot;" in page
    assert "Because\nof &lt;i&gt;light&lt;/i&gt;</pre>" in page
    assert "output_tokens 1,234" in page
    assert "demo" in page
    assert f'href="{execution.get_absolute_url()}"' in page


def test_the_page_has_no_field_to_edit(admin_pages: Client) -> None:
    execution = finished()
    page = text_of(admin_pages, page_of(execution))
    assert 'name="_save"' not in page
    assert '<input type="text"' not in page
    assert "<textarea" not in page
    assert admin_pages.post(page_of(execution), {"flow": "changed", "_save": "Save"}).status_code == 403
    assert admin_pages.get(f"{LIST}add/").status_code == 403
    execution.refresh_from_db()
    assert execution.flow == "poem_flow"


def test_the_page_says_why_it_failed(admin_pages: Client) -> None:
    page = text_of(admin_pages, page_of(failed(message="<The> provider is away.")))
    assert "&lt;The&gt; provider is away." in page
    assert "<code>provider</code> Trying again may help." in page


def test_the_page_shows_steps_and_the_timeline_in_order(admin_pages: Client) -> None:
    entries = [
        log(0, "▶ Search <it>", step="Search"),
        tool_result(0, {"rows": [1, 2]}),
        log(1, "Done with it"),
    ]
    execution = finished(entries=entries)
    keep_step(execution, "Search/Read%2Ftwice#2", tries=3)
    page = text_of(admin_pages, page_of(execution))
    assert page.index("▶ Search &lt;it&gt;") < page.index("<code>lookup</code>") < page.index("Done with it")
    assert "<details><summary>Data" in page
    assert "&quot;rows&quot;: [" in page
    assert '<th scope="row">Search › Read/twice</th><td>0.0 s</td><td>3</td>' in page


def test_tool_results_link_to_the_web_only(admin_pages: Client) -> None:
    hits = [
        {"url": "https://example.com/a", "title": "<A>", "content": "first"},
        {"url": "/docs/readme/"},
        {"url": "javascript:alert(1)", "title": "script"},
        {"url": "//evil.example/", "title": "other scheme"},
        {"url": "http://[broken", "title": "broken"},
        {"url": ["https://example.com/list"]},
        "text",
    ]
    page = text_of(admin_pages, page_of(finished(entries=[tool_result(0, hits)])))
    assert '<a href="https://example.com/a" rel="noopener noreferrer">&lt;A&gt;</a>' in page
    assert '<a href="/docs/readme/"' in page
    assert 'href="javascript:' not in page
    assert 'href="//evil' not in page
    assert 'href="http://[broken' not in page


def test_the_page_costs_the_same_however_much_happened(
    admin_pages: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    small = finished(entries=[log(0, "One")])
    large = finished(entries=[log(n, f"Line {n}") for n in range(100)])
    for number in range(20):
        keep_step(large, f"step {number}")
    for execution in (small, large):
        # Session, user, execution with its owner, how many entries, the entries, the steps.
        with django_assert_num_queries(6):
            admin_pages.get(page_of(execution))


def test_a_large_result_is_cut_and_can_be_opened_whole(admin_pages: Client) -> None:
    execution = finished(result="<é>" * 400_000)
    page = text_of(admin_pages, page_of(execution))
    assert len(page) < 300_000
    whole = reverse("admin:main_execution_whole", args=[execution.id, "result"])
    assert f'<a href="{whole}">Open all of it</a>' in page
    response = admin_pages.get(whole)
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.content.decode() == execution.result
    assert admin_pages.get(whole.replace("result", "owner")).status_code == 404


def test_a_long_timeline_is_paged(admin_pages: Client) -> None:
    execution = finished(entries=[log(n, f"Line {n}.") for n in range(2000)])
    page = text_of(admin_pages, page_of(execution))
    assert "Line 199." in page
    assert "Line 200." not in page
    assert "Entries 1 to 200 of 2000." in page
    assert "Line 1999." in text_of(admin_pages, f"{page_of(execution)}?page=10")
    assert "Line 1999." in text_of(admin_pages, f"{page_of(execution)}?page=11")
    assert "Line 0." in text_of(admin_pages, f"{page_of(execution)}?page=x")


def test_a_large_tool_result_is_only_linked(admin_pages: Client) -> None:
    execution = finished(entries=[tool_result(0, "x" * 1_000_000)])
    page = text_of(admin_pages, page_of(execution))
    assert len(page) < 100_000
    assert "Too large to show here (976.6" in page
    address = Entry.objects.get().address
    assert f'<a href="{address.replace("&", "&amp;")}">Open it</a>' in page
    assert admin_pages.get(address).json()["data"] == "x" * 1_000_000


def test_pages_have_no_inline_script_or_style(admin_pages: Client) -> None:
    WorkerBeat.beat("host/1/2", "io")
    for address in (LIST, page_of(failed()), "/admin/main/workerbeat/"):
        expect_nothing_inline(text_of(admin_pages, address))


# Cancel


@pytest.mark.django_db(transaction=True)
def test_selected_executions_are_cancelled_and_their_watchers_told(admin_pages: Client) -> None:
    ended, current = finished(), running()
    waiting = started()
    said = act(admin_pages, LIST, "cancel_selected", ended, current, waiting)
    assert said == ["2 executions were cancelled.", "1 execution had ended already."]
    assert set(Execution.objects.values_list("state", flat=True)) == {"SUCCESS", "CANCELLED"}
    for execution in (current, waiting):
        told = history(str(execution.id))
        assert told
        assert told.error
        assert told.error["type"] == "cancelled"


@pytest.mark.django_db(transaction=True)
def test_an_execution_is_cancelled_from_its_page(admin_pages: Client) -> None:
    execution = running()
    address = reverse("admin:main_execution_cancel", args=[execution.id])
    assert f'formaction="{address}"' in text_of(admin_pages, page_of(execution))
    assert messages_of(admin_pages, address) == ["1 execution was cancelled."]
    page = text_of(admin_pages, page_of(execution))
    assert "cancelled</span>" in page
    assert f'formaction="{address}"' not in page
    assert "Cancelled." in text_of(admin_pages, reverse("admin:main_execution_history", args=[execution.id]))


def test_following_an_action_s_address_does_nothing(admin_pages: Client) -> None:
    execution = started()
    response = admin_pages.get(reverse("admin:main_execution_cancel", args=[execution.id]))
    assert response.headers["Location"] == page_of(execution)
    execution.refresh_from_db()
    assert execution.state == "PENDING"


def test_actions_need_the_csrf_token(alice: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    execution = started()
    for name in ("cancel", "run_again"):
        assert client.post(reverse(f"admin:main_execution_{name}", args=[execution.id])).status_code == 403
    assert Execution.objects.get().state == "PENDING"


def test_too_many_at_once_are_done_in_parts(admin_pages: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution_pages, "MAX_AT_ONCE", 2)
    executions = [finished() for _ in range(3)]
    said = act(admin_pages, LIST, "run_selected_again", *executions)
    assert said == [
        "Only the 2 oldest of them were taken: more are too many at once.",
        "2 executions were started.",
    ]


# Run again


def test_an_execution_is_run_again_for_whom_it_was(admin_pages: Client) -> None:
    bob = User.objects.create_user("bob@example.com")
    first = started("web_search_flow", owner=bob, question="Why?")
    first.cancel()
    (said,) = act(admin_pages, LIST, "run_selected_again", first)
    again = Execution.objects.exclude(id=first.id).get()
    assert (again.flow, again.inputs, again.owner_id, again.visitor) == (
        first.flow,
        first.inputs,
        bob.pk,
        None,
    )
    assert again.state == "PENDING"
    assert f'<a href="{page_of(again)}">' in said


def test_a_visitor_s_execution_is_run_again_from_its_page(admin_pages: Client) -> None:
    first = finished()
    assert len(messages_of(admin_pages, reverse("admin:main_execution_run_again", args=[first.id]))) == 1
    assert Execution.objects.exclude(id=first.id).get().visitor == VISITOR


@pytest.mark.parametrize(
    ("action", "button", "kept"),
    [
        ("run_selected_again", "run_again", set()),
        ("run_selected_from_failed_step", "run_from_failed_step", {"Ask"}),
    ],
)
@pytest.mark.parametrize("from_page", [False, True])
def test_what_failed_is_run_again_from_the_start_or_from_its_failed_step(
    admin_pages: Client, action: str, button: str, kept: set[str], from_page: bool
) -> None:
    execution = failed()
    keep_step(execution, "Ask")
    address = reverse(f"admin:main_execution_{button}", args=[execution.id])
    assert f'formaction="{address}"' in text_of(admin_pages, page_of(execution))
    (said,) = messages_of(admin_pages, address) if from_page else act(admin_pages, LIST, action, execution)
    again = execution.runs_again.get()
    assert said == f'An execution was started: <a href="{page_of(again)}">{again}</a>'
    assert again.state == "PENDING"
    assert set(again.steps.values_list("key", flat=True)) == kept
    noted = text_of(admin_pages, reverse("admin:main_execution_history", args=[execution.id]))
    assert f"Run again as {again.id}." in noted


def test_what_did_not_fail_has_no_failed_step_to_be_run_from(admin_pages: Client) -> None:
    whole, broken = finished(), failed()
    address = reverse("admin:main_execution_run_from_failed_step", args=[whole.id])
    assert f'formaction="{address}"' not in text_of(admin_pages, page_of(whole))
    refusal = (
        "“Poem” was not run again. Only what failed or was cancelled can be run again from the failed step."
    )
    assert messages_of(admin_pages, address) == [refusal]
    said = act(admin_pages, LIST, "run_selected_from_failed_step", whole, broken)
    assert said[0].startswith("An execution was started:")
    assert said[1:] == [refusal]
    assert not whole.runs_again.exists()


def test_what_cannot_run_again_is_said_and_the_others_go_on(
    admin_pages: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    demanding = replace(
        get_flow("poem_flow"), name="demanding_flow", title="Demanding", requires=("TAVILY_API_KEY",)
    )
    monkeypatch.setitem(FLOW_REGISTRY, demanding.name, demanding)
    gone, changed, unavailable, good = (started() for _ in range(4))
    Execution.objects.filter(id=gone.id).update(flow="zzz")
    Execution.objects.filter(id=changed.id).update(inputs={"line": 1})
    Execution.objects.filter(id=unavailable.id).update(flow=demanding.name)
    under_way = started()
    Execution.objects.exclude(id=under_way.id).update(state="SUCCESS", finished_at=timezone.now())
    said = act(admin_pages, LIST, "run_selected_again", gone, changed, unavailable, good, under_way)
    assert said[0].startswith("An execution was started:")
    assert said[1:] == [
        "“zzz” was not run again. There is no flow “zzz”.",
        "“Poem” was not run again. “line” is not an input of poem_flow; it has no inputs.",
        "“Demanding” was not run again. “Demanding” needs TAVILY_API_KEY, which this server has not set.",
        "“Poem” was not run again. The execution has not ended yet.",
    ]
    assert Execution.objects.count() == 6


def test_equal_refusals_are_said_once(admin_pages: Client) -> None:
    executions = [started(), started()]
    Execution.objects.update(flow="zzz", state="SUCCESS")
    (said,) = act(admin_pages, LIST, "run_selected_again", *executions)
    assert said == "“zzz” was not run again. There is no flow “zzz”. (2 ×)"


# Who may what


@pytest.mark.django_db
@STAFF
def test_staff_look_with_the_view_permission_and_act_with_the_change_permission(
    client: Client, permissions: list[str], look: int, operate: bool
) -> None:
    bob = User.objects.create_user("bob@example.com", is_staff=True)
    permit(bob, permissions)
    client.force_login(bob)
    execution = finished()
    again = reverse("admin:main_execution_run_again", args=[execution.id])
    assert client.get(LIST).status_code == look
    assert client.get(page_of(execution)).status_code == look
    assert (
        client.get(reverse("admin:main_execution_whole", args=[execution.id, "result"])).status_code == look
    )
    assert client.post(again).status_code == (302 if operate else 403)
    client.post(LIST, {"action": "run_selected_again", "_selected_action": [str(execution.id)]})
    assert Execution.objects.count() == (3 if operate else 1)
    assert client.get(f"{LIST}add/").status_code == 403
    assert client.post(reverse("admin:main_execution_delete", args=[execution.id])).status_code == 403
    if look == 200:
        assert ("run_selected_again" in text_of(client, LIST)) is operate
        assert (again in text_of(client, page_of(execution))) is operate


@pytest.mark.django_db
def test_others_are_sent_to_sign_in(client: Client) -> None:
    execution = finished()
    addresses = [LIST, page_of(execution), reverse("admin:main_execution_run_again", args=[execution.id])]
    for user in (None, User.objects.create_user("charlie@example.com")):
        if user:
            client.force_login(user)
        expect_sign_in(client, addresses)
    assert Execution.objects.count() == 1


# Delete


def test_an_ended_execution_is_deleted_with_what_belongs_to_it(admin_pages: Client) -> None:
    execution = finished(entries=[log(n, f"Line {n}.") for n in range(300)])
    keep_step(execution, "Write")
    address = reverse("admin:main_execution_delete", args=[execution.id])
    page = text_of(admin_pages, address)
    assert "Entries: 300" in page
    assert "Line 1." not in page
    assert admin_pages.post(address, {"post": "yes"}).status_code == 302
    assert [Execution.objects.count(), Step.objects.count(), Entry.objects.count()] == [0, 0, 0]


def test_an_execution_under_way_is_not_deleted(admin_pages: Client) -> None:
    execution = running()
    address = reverse("admin:main_execution_delete", args=[execution.id])
    assert address not in text_of(admin_pages, page_of(execution))
    assert admin_pages.post(address, {"post": "yes"}).status_code == 403
    selected = {"action": "delete_selected", "_selected_action": [str(execution.id)], "post": "yes"}
    response = admin_pages.post(LIST, selected)
    assert "These executions have not ended. Cancel them first:" in response.content.decode()
    assert Execution.objects.filter(id=execution.id).exists()


def test_selected_executions_are_deleted(admin_pages: Client) -> None:
    executions = [finished(), failed()]
    selected = {"action": "delete_selected", "_selected_action": [str(each.id) for each in executions]}
    assert "Executions: 2" in admin_pages.post(LIST, selected).content.decode()
    assert admin_pages.post(LIST, {**selected, "post": "yes"}).status_code == 302
    assert not Execution.objects.exists()


# Workers


def test_workers_are_listed_and_cannot_be_changed(
    admin_pages: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    WorkerBeat.beat("host/1/2", "io", capacity=32, stuck=7)
    WorkerBeat.beat("host/3/4", "cpu")
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE main_workerbeat SET beat_at = beat_at - interval '2 minutes' WHERE kind = 'cpu'"
        )
    page = text_of(admin_pages, "/admin/main/workerbeat/")
    assert "<h1>Workers</h1>" in page
    assert "host/1/2" in page
    assert " s ago" in page
    assert "silent for 2 min" in page
    assert '<td class="field-capacity">32</td><td class="field-stuck">7</td>' in page
    assert admin_pages.get("/admin/main/workerbeat/add/").status_code == 403
    with django_assert_num_queries(4):
        admin_pages.get("/admin/main/workerbeat/")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (1.56, "1.6 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3599.6, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert execution_pages.duration_text(seconds) == text
