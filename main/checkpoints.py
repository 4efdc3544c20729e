"""Where LangGraph keeps what its graphs have done: three tables that belong to an execution.

They are LangGraph's own, with one column more, `execution_id`, which PostgreSQL takes from the thread's id: a
thread is "<execution id>/<step key>". Who deletes an execution deletes its checkpoints. They are models so that
Django knows them; checkpointer.py reads and writes them. Knows no LangGraph: a web process imports it.
"""

import uuid

from django.db import connection, models, transaction


class _Kept(models.Model):
    """What the three tables share. PostgreSQL fills `execution`, and deletes with it."""

    # Its text is compared and cut by PostgreSQL, see `execution_id` in the migration.
    thread_id = models.TextField()
    checkpoint_ns = models.TextField(default="")
    execution = models.ForeignKey(
        "main.Execution", on_delete=models.DO_NOTHING, null=True, editable=False, related_name="%(class)ss"
    )

    class Meta:
        abstract = True


class Checkpoint(_Kept):
    """The state of a graph after a superstep, but for the values of its channels."""

    pk = models.CompositePrimaryKey("thread_id", "checkpoint_ns", "checkpoint_id")
    checkpoint_id = models.TextField()
    parent_checkpoint_id = models.TextField(null=True)  # noqa: DJ001 LangGraph's own
    type = models.TextField(null=True)  # noqa: DJ001
    checkpoint = models.JSONField()
    metadata = models.JSONField(default=dict)

    class Meta:
        db_table = "checkpoints"

    def __str__(self) -> str:
        return f"{self.thread_id} {self.checkpoint_id}"


class CheckpointBlob(_Kept):
    """A channel's value in one version."""

    pk = models.CompositePrimaryKey("thread_id", "checkpoint_ns", "channel", "version")
    channel = models.TextField()
    version = models.TextField()
    type = models.TextField()
    blob = models.BinaryField(null=True)

    class Meta:
        db_table = "checkpoint_blobs"

    def __str__(self) -> str:
        return f"{self.thread_id} {self.channel}"


class CheckpointWrite(_Kept):
    """What a node that has finished wants to write, until its superstep is done."""

    pk = models.CompositePrimaryKey("thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx")
    checkpoint_id = models.TextField()
    task_id = models.TextField()
    idx = models.IntegerField()
    channel = models.TextField()
    type = models.TextField(null=True)  # noqa: DJ001
    blob = models.BinaryField()
    task_path = models.TextField(default="")

    class Meta:
        db_table = "checkpoint_writes"

    def __str__(self) -> str:
        return f"{self.thread_id} {self.task_id}"


def copy_checkpoints(from_execution_id: uuid.UUID, to_execution_id: uuid.UUID) -> None:
    """Give an execution the checkpoints of another, so that its graphs go on where those ended.

    The checkpoints keep their ids, from which LangGraph makes those of its tasks: what finished nodes wrote is
    found again.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        for table in (Checkpoint, CheckpointBlob, CheckpointWrite):
            cursor.execute(_copy(table), {"source": from_execution_id, "target": str(to_execution_id)})


def _copy(table: type[_Kept]) -> str:
    columns = {str(field.column) for field in table._meta.local_concrete_fields}
    others = ", ".join(sorted(columns - {"thread_id", "execution_id"}))
    name = table._meta.db_table
    return (
        f"INSERT INTO {name} (thread_id, {others}) "  # noqa: S608 names of our own
        f"SELECT %(target)s || substr(thread_id, 37), {others} FROM {name} WHERE execution_id = %(source)s"
    )
