"""LangGraph's tables for checkpoints, as langgraph-checkpoint-postgres 3.2 makes them (its MIGRATIONS 0 to 9).

Added is `execution_id`, by which PostgreSQL itself deletes with an execution. Left out are three indexes on
`thread_id`, which the primary keys begin with.
"""

import django.db.models.deletion
from django.db import migrations, models

KNOWN_MIGRATIONS = 10

EXECUTION = """
    execution_id uuid GENERATED ALWAYS AS (left(thread_id, 36)::uuid) STORED
        REFERENCES main_execution (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED
"""

CREATE = f"""
CREATE TABLE checkpoint_migrations (v INTEGER PRIMARY KEY);
INSERT INTO checkpoint_migrations SELECT generate_series(0, {KNOWN_MIGRATIONS - 1});
CREATE TABLE checkpoints (
    thread_id TEXT NOT NULL,
    checkpoint_ns TEXT NOT NULL DEFAULT '',
    checkpoint_id TEXT NOT NULL,
    parent_checkpoint_id TEXT,
    type TEXT,
    checkpoint JSONB NOT NULL,
    metadata JSONB NOT NULL DEFAULT '{{}}',
    {EXECUTION},
    PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id)
);
CREATE TABLE checkpoint_blobs (
    thread_id TEXT NOT NULL,
    checkpoint_ns TEXT NOT NULL DEFAULT '',
    channel TEXT NOT NULL,
    version TEXT NOT NULL,
    type TEXT NOT NULL,
    blob BYTEA,
    {EXECUTION},
    PRIMARY KEY (thread_id, checkpoint_ns, channel, version)
);
CREATE TABLE checkpoint_writes (
    thread_id TEXT NOT NULL,
    checkpoint_ns TEXT NOT NULL DEFAULT '',
    checkpoint_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    idx INTEGER NOT NULL,
    channel TEXT NOT NULL,
    type TEXT,
    blob BYTEA NOT NULL,
    task_path TEXT NOT NULL DEFAULT '',
    {EXECUTION},
    PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
);
CREATE INDEX checkpoints_execution ON checkpoints (execution_id);
CREATE INDEX checkpoint_blobs_execution ON checkpoint_blobs (execution_id);
CREATE INDEX checkpoint_writes_execution ON checkpoint_writes (execution_id);
"""

DROP = "DROP TABLE checkpoint_writes, checkpoint_blobs, checkpoints, checkpoint_migrations;"


EXECUTION_FIELD = models.ForeignKey(
    "main.execution",
    on_delete=django.db.models.deletion.DO_NOTHING,
    null=True,
    editable=False,
    related_name="%(class)ss",
)


def key(*columns):
    return models.CompositePrimaryKey(
        "thread_id", "checkpoint_ns", *columns, blank=True, editable=False, primary_key=True, serialize=False
    )


def table(name, db_table, *fields):
    shared = [
        ("thread_id", models.TextField()),
        ("checkpoint_ns", models.TextField(default="")),
        ("execution", EXECUTION_FIELD.clone()),
    ]
    return migrations.CreateModel(name=name, fields=[*shared, *fields], options={"db_table": db_table})


class Migration(migrations.Migration):
    dependencies = [("main", "0002_queues")]

    operations = [
        migrations.RunSQL(
            CREATE,
            DROP,
            state_operations=[
                table(
                    "Checkpoint",
                    "checkpoints",
                    ("pk", key("checkpoint_id")),
                    ("checkpoint_id", models.TextField()),
                    ("parent_checkpoint_id", models.TextField(null=True)),
                    ("type", models.TextField(null=True)),
                    ("checkpoint", models.JSONField()),
                    ("metadata", models.JSONField(default=dict)),
                ),
                table(
                    "CheckpointBlob",
                    "checkpoint_blobs",
                    ("pk", key("channel", "version")),
                    ("channel", models.TextField()),
                    ("version", models.TextField()),
                    ("type", models.TextField()),
                    ("blob", models.BinaryField(null=True)),
                ),
                table(
                    "CheckpointWrite",
                    "checkpoint_writes",
                    ("pk", key("checkpoint_id", "task_id", "idx")),
                    ("checkpoint_id", models.TextField()),
                    ("task_id", models.TextField()),
                    ("idx", models.IntegerField()),
                    ("channel", models.TextField()),
                    ("type", models.TextField(null=True)),
                    ("blob", models.BinaryField()),
                    ("task_path", models.TextField(default="")),
                ),
            ],
        )
    ]
