"""LangGraph's tables: made as LangGraph makes them, and gone with their execution."""

import uuid
from typing import Any

import pytest
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from langgraph.checkpoint.postgres.base import MIGRATIONS

from main.checkpoints import Checkpoint, CheckpointBlob, CheckpointWrite, copy_checkpoints
from main.models import Execution
from main.tests import rows

TABLES: list[type[Any]] = [Checkpoint, CheckpointBlob, CheckpointWrite]


def checkpointed() -> Execution:
    """An execution with a row in each table."""
    execution = rows.waiting()
    with connection.cursor() as cursor:
        thread = f"{execution.id}/Graph"
        cursor.execute(
            "INSERT INTO checkpoints (thread_id, checkpoint_id, checkpoint) VALUES (%s, '1', '{}')", [thread]
        )
        cursor.execute(
            "INSERT INTO checkpoint_blobs (thread_id, channel, version, type, blob) "
            "VALUES (%s, 'word', '1', 'bytes', 'x')",
            [thread],
        )
        cursor.execute(
            "INSERT INTO checkpoint_writes (thread_id, checkpoint_id, task_id, idx, channel, blob) "
            "VALUES (%s, '1', 'task', 0, 'word', 'x')",
            [thread],
        )
    return execution


def kept(execution: Execution) -> list[int]:
    return [table.objects.filter(execution=execution).count() for table in TABLES]


def columns(schema: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns "
            "WHERE table_schema = %s AND table_name LIKE 'checkpoint%%' AND column_name <> 'execution_id' "
            "ORDER BY table_name, column_name",
            [schema],
        )
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found


@pytest.mark.django_db
def test_the_tables_are_those_that_the_installed_library_makes() -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA library; SET LOCAL search_path TO library")
        for migration in MIGRATIONS:
            cursor.execute(migration.replace("CONCURRENTLY", ""))
        cursor.execute("SET LOCAL search_path TO public")
        cursor.execute("SELECT array_agg(v ORDER BY v) FROM checkpoint_migrations")
        assert cursor.fetchone() == (list(range(len(MIGRATIONS))),), (
            "it has a migration that ours does not know"
        )
    assert columns("public") == columns("library") != []


@pytest.mark.django_db
def test_a_row_belongs_to_the_execution_that_its_thread_names() -> None:
    execution, other = checkpointed(), checkpointed()
    assert kept(execution) == kept(other) == [1, 1, 1]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("way", ["by Django", "by PostgreSQL"])
def test_what_deletes_an_execution_deletes_its_checkpoints(way: str) -> None:
    execution, other = checkpointed(), checkpointed()
    if way == "by Django":
        Execution.objects.filter(id=execution.id).delete()
    else:
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM main_execution WHERE id = %s", [execution.id])
    assert kept(execution) == [0, 0, 0]
    assert kept(other) == [1, 1, 1]


@pytest.mark.django_db(transaction=True)
def test_a_thread_needs_its_execution_at_the_end_of_the_transaction() -> None:
    def keep(execution_id: uuid.UUID) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO checkpoints (thread_id, checkpoint_id, checkpoint) VALUES (%s, '1', '{}')",
                [f"{execution_id}/Graph"],
            )

    later = uuid.uuid4()
    with transaction.atomic():
        keep(later)
        rows.waiting(id=later)
    with pytest.raises(IntegrityError):
        keep(uuid.uuid4())


@pytest.mark.django_db
def test_checkpoints_are_copied_as_they_are_to_a_thread_of_the_other_execution() -> None:
    source, target = checkpointed(), rows.waiting()
    copy_checkpoints(source.id, target.id)
    for table in TABLES:
        [first], [copy] = (table.objects.filter(execution=each).values() for each in (source, target))
        assert copy == first | {"thread_id": f"{target.id}/Graph", "execution_id": target.id}
    assert kept(source) == [1, 1, 1]


@pytest.mark.django_db(transaction=True)
def test_the_migration_can_be_taken_back() -> None:
    checkpointed()
    try:
        call_command("migrate", "main", "0002", verbosity=0)
        assert not set(connection.introspection.table_names()) & {"checkpoints", "checkpoint_migrations"}
    finally:
        call_command("migrate", verbosity=0)
    assert kept(checkpointed()) == [1, 1, 1]
