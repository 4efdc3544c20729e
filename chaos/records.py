"""What the database says: an audit that triggers write as things happen, and the rows as they are at the end.

We ask it past the proxies. The triggers see what no look from outside could: which attempt an execution was in
at the moment when a step of it was stored.
"""

import asyncio
import time
from typing import Any, NamedTuple

import psycopg

from chaos.provider import Mark, marks_in
from config import embedded

# Seconds that the database may take to come back.
PATIENCE = 30.0

AUDIT = """
CREATE TABLE chaos_audit (
    id bigserial, at timestamptz DEFAULT clock_timestamp(), what text, execution uuid,
    attempt int, state text, worker text, step text, ending text
);

CREATE FUNCTION chaos_note_execution() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chaos_audit (what, execution, attempt, state, worker, ending) VALUES
        ('execution', NEW.id, NEW.attempt, NEW.state, NEW.worker, md5(concat(NEW.result::text, NEW.error::text)));
    RETURN NULL;
END $$;
CREATE FUNCTION chaos_note_step() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chaos_audit (what, execution, attempt, state, worker, step)
        SELECT 'step', id, attempt, state, worker, NEW.key FROM main_execution WHERE id = NEW.execution_id;
    RETURN NULL;
END $$;

CREATE FUNCTION chaos_note_write() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chaos_audit (what, execution, attempt, state, worker, step)
        SELECT 'write', id, attempt, state, worker, encode(NEW.blob, 'escape')
        FROM main_execution WHERE id = NEW.execution_id;
    RETURN NULL;
END $$;

CREATE TRIGGER chaos_inserted AFTER INSERT ON main_execution
    FOR EACH ROW EXECUTE FUNCTION chaos_note_execution();
CREATE TRIGGER chaos_updated AFTER UPDATE ON main_execution FOR EACH ROW
    WHEN ((OLD.attempt, OLD.state, OLD.result::text, OLD.error::text)
        IS DISTINCT FROM (NEW.attempt, NEW.state, NEW.result::text, NEW.error::text))
    EXECUTE FUNCTION chaos_note_execution();
CREATE TRIGGER chaos_write AFTER INSERT OR UPDATE ON checkpoint_writes
    FOR EACH ROW EXECUTE FUNCTION chaos_note_write();
CREATE TRIGGER chaos_step AFTER INSERT OR UPDATE ON main_step
    FOR EACH ROW EXECUTE FUNCTION chaos_note_step();
"""


class Held(NamedTuple):
    """An execution that was running at some moment, and what held it."""

    id: str
    attempt: int
    worker: str
    crashes: int

    def is_held_by(self, pid: int) -> bool:
        """Say whether a worker process, or the parent of one, holds it. Names are host/parent/process."""
        return str(pid) in self.worker.split("/")[1:]


class Row(NamedTuple):
    """An execution as it is at the end."""

    id: str
    tag: str
    flow: str
    state: str
    attempt: int
    crashes: int
    result: Any
    error: dict[str, Any] | None

    @property
    def is_final(self) -> bool:
        return self.state in ("SUCCESS", "FAILURE", "CANCELLED")


class StepRow(NamedTuple):
    """A finished step as it is at the end. `mark` is what it returned; an effect's is that of its first call."""

    execution: str
    key: str
    attempt: int
    mark: Mark | None

    @property
    def name(self) -> str:
        """The last part of its key: a node of a graph is a step below the graph's."""
        return self.key.rpartition("/")[2]


class Outgoing(NamedTuple):
    """A notification as it is at the end; `finished_at` by `time.time()`, 0 for never."""

    execution: str
    state: str
    attempt: int
    finished_at: float

    @property
    def is_sent(self) -> bool:
        return self.state == "SENT"


class Note(NamedTuple):
    """A line of the audit: an execution changed, or something was stored while the execution was as it says.

    What was stored is a step, by its key, or what a node of a graph wrote, by its bytes.
    """

    at: float
    what: str
    execution: str
    attempt: int
    state: str
    step: str
    ending: str

    @property
    def is_final(self) -> bool:
        return self.state in ("SUCCESS", "FAILURE", "CANCELLED")


class Records:
    """The database, asked directly. Every question has a connection of its own, since the database may restart."""

    def __init__(self, sockets: str, database: str) -> None:
        self._sockets, self._database = sockets, database

    async def install_audit(self) -> None:
        async with await self._connect() as connection:
            await connection.execute(AUDIT)

    async def running(self) -> list[Held]:
        rows = await self._rows(
            "SELECT id::text, attempt, worker, crashes FROM main_execution WHERE state = 'RUNNING'"
        )
        return [Held(*row) for row in rows]

    async def unended(self) -> set[str]:
        rows = await self._rows("SELECT id::text FROM main_execution WHERE state IN ('PENDING', 'RUNNING')")
        return {row[0] for row in rows}

    async def count_workers(self, seconds: float) -> int:
        """Count the processes that said in these last seconds that they are there to run flows."""
        rows = await self._rows(
            "SELECT count(*) FROM main_workerbeat WHERE beat_at > now() - make_interval(secs => %s)", seconds
        )
        return int(rows[0][0])

    async def rows(self) -> list[Row]:
        return [
            Row(*row)
            for row in await self._rows(
                "SELECT id::text, inputs->>'tag', flow, state, attempt, crashes, result, error FROM main_execution"
            )
        ]

    async def steps(self) -> list[StepRow]:
        rows = await self._rows(
            "SELECT execution_id::text, key, attempt, result::text FROM main_step ORDER BY id"
        )
        return [
            StepRow(execution, key, attempt, next(iter(marks_in(result or "")), None))
            for execution, key, attempt, result in rows
        ]

    async def notes(self) -> list[Note]:
        rows = await self._rows(
            "SELECT at, what, execution::text, attempt, state, coalesce(step, ''), coalesce(ending, '') "
            "FROM chaos_audit ORDER BY id"
        )
        return [Note(at.timestamp(), *row) for at, *row in rows]

    async def sending(self) -> list[Held]:
        """Return the executions whose mails are under way, and the workers that send them."""
        rows = await self._rows(
            "SELECT execution_id::text, attempt, worker, 0 FROM notifications_notification WHERE state = 'SENDING'"
        )
        return [Held(*row) for row in rows]

    async def unsent(self) -> set[str]:
        """Return the executions whose mails are under way, or wait."""
        rows = await self._rows(
            "SELECT execution_id::text FROM notifications_notification WHERE state IN ('PENDING', 'SENDING')"
        )
        return {row[0] for row in rows}

    async def outbox(self) -> list[Outgoing]:
        rows = await self._rows(
            "SELECT execution_id::text, state, attempt, finished_at FROM notifications_notification"
        )
        return [
            Outgoing(execution, state, attempt, finished_at.timestamp() if finished_at else 0.0)
            for execution, state, attempt, finished_at in rows
        ]

    async def _rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Ask until the database answers: it may be restarting."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                async with await self._connect() as connection:
                    return await (await connection.execute(sql.encode(), parameters)).fetchall()
            except psycopg.OperationalError:
                if time.monotonic() > until:
                    raise
            await asyncio.sleep(0.1)

    async def _connect(self) -> "psycopg.AsyncConnection[tuple[Any, ...]]":
        return await psycopg.AsyncConnection.connect(
            host=self._sockets, port=int(embedded.PORT), user=embedded.USER, dbname=self._database
        )
