"""LangGraph's checkpointer for PostgreSQL, behind the fence of an attempt and on Django's connection.

What a node wrote is kept in one transaction with the node as a finished step: what is shown as done does not run
again. An attempt that lost its execution changes nothing. LangGraph calls it from threads of its own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from django.db import connection
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.base import BasePostgresSaver
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from psycopg import Cursor
from psycopg.pq import Format
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb

from main.database import with_database
from main.graphs import Writes, outcome
from main.models import Execution, Step
from main.run import Run, StepRecord
from main.states import StateSerializer

Result = TypeVar("Result")


class Checkpointer(PostgresSaver):
    """Keeps the checkpoints of one attempt's graphs."""

    def __init__(self, execution: Execution, run: Run) -> None:
        BasePostgresSaver.__init__(self, serde=StateSerializer())  # it has no connection of its own
        self._execution = execution
        self._run = run

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return self._read(partial(super().get_tuple, config))

    def list(self, config: RunnableConfig | None, **options: Any) -> Iterator[CheckpointTuple]:
        every = super().list
        return iter(self._read(lambda: [*every(config, **options)]))

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        return self._read(partial(super().get_delta_channel_history, config=config, channels=channels))

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Keep a checkpoint, after the nodes that it comes from; raises Fenced."""
        thread = config["configurable"]
        address = (thread["thread_id"], thread["checkpoint_ns"])
        self._run.await_nodes(*address, metadata["step"])
        inline, apart = _divided(checkpoint["channel_values"])
        versions = {channel: version for channel, version in new_versions.items() if channel in apart}
        row = (
            *address,
            checkpoint["id"],
            thread.get("checkpoint_id"),
            Jsonb({**checkpoint, "channel_values": inline}),
            Jsonb(get_serializable_checkpoint_metadata(config, metadata)),
        )
        with_database(partial(self._put, self._dump_blobs(*address, apart, versions), row), self._run)
        thread_id, namespace = address
        return {
            "configurable": {
                "thread_id": thread_id,
                "checkpoint_ns": namespace,
                "checkpoint_id": checkpoint["id"],
            }
        }

    def put_writes(self, config: RunnableConfig, writes: Writes, task_id: str, task_path: str = "") -> None:
        """Keep what a task wrote, with the task as a finished step; raises Fenced."""
        writes, failed = outcome(writes)
        with self._run.keeping_node(task_id, failed=failed) as steps:
            thread = config["configurable"]
            address = (thread["thread_id"], thread["checkpoint_ns"], thread["checkpoint_id"])
            rows = self._dump_writes(*address, task_id, task_path, writes)
            replaced = all(channel in WRITES_IDX_MAP for channel, _ in writes)
            sql = self.UPSERT_CHECKPOINT_WRITES_SQL if replaced else self.INSERT_CHECKPOINT_WRITES_SQL
            with_database(partial(self._put_writes, steps, sql, rows), self._run)

    def _put(self, blobs: Sequence[tuple[Any, ...]], row: tuple[Any, ...]) -> None:
        with self._execution.fence(), self._cursor() as cursor:
            if blobs:
                cursor.executemany(self.UPSERT_CHECKPOINT_BLOBS_SQL, blobs)
            cursor.execute(self.UPSERT_CHECKPOINTS_SQL, row)

    def _put_writes(self, steps: Sequence[StepRecord], sql: str, rows: Sequence[tuple[Any, ...]]) -> None:
        with self._execution.fence(), self._cursor() as cursor:
            for step in steps:
                Step.record(self._execution, step)
            if rows:
                cursor.executemany(sql, rows)

    def _read(self, what: Callable[[], Result]) -> Result:
        return with_database(what, self._run)

    @contextmanager
    def _cursor(self, *, pipeline: bool = False) -> Iterator[Cursor[DictRow]]:
        """Yield a cursor of psycopg's own on Django's connection; errors are Django's."""
        connection.ensure_connection()
        with connection.wrap_database_errors, Cursor(connection.connection, row_factory=dict_row) as cursor:
            cursor.format = Format.BINARY
            yield cursor


def _divided(channels: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide the values of channels into those that stand in the checkpoint's JSON, and those apart.

    LangGraph would have texts and all numbers in the JSON as well; PostgreSQL knows no NUL and no NaN there.
    """
    apart = {name: value for name, value in channels.items() if not _is_small(value)}
    inline = {name: value for name, value in channels.items() if name not in apart}
    marks = {name: True for name, value in apart.items() if isinstance(value, _DeltaSnapshot)}
    return inline | marks, apart


def _is_small(value: Any) -> bool:
    return type(value) in (bool, int, type(None))  # an enum of numbers is more than its number
