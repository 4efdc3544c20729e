"""What events look like, for programs."""

from functools import cache

import orjson
from django.http import HttpRequest, HttpResponse

from main.api import safe_only
from main.event_schemas import event_schemas as of_execution
from main.event_schemas import owner_event_schemas


@safe_only
def event_schemas(request: HttpRequest) -> HttpResponse:
    """`GET /api/v1/events/schema`: the JSON Schemas of all events, of an execution's stream and of an owner's."""
    return HttpResponse(_encoded(), content_type="application/json")


@cache
def _encoded() -> bytes:
    return orjson.dumps({"execution": of_execution(), "owner": owner_event_schemas()})
