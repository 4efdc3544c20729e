"""The process that writes events (see writer.py).

    python -m benchmarks.writing

says that it is ready, reads jobs from its standard input, a line of JSON each, and answers each with a line when it is
done. The commands are those of the channel.
"""

import os
import socket
import sys
import time
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import hiredis
import orjson

from benchmarks.writer import BARE, Done, Job
from config import embedded
from main.channel import STREAM_LENGTH, add_event, redis_client

if TYPE_CHECKING:
    from redis.client import Pipeline

# What stands in a template for digits; in nothing else that is sent.
NUMBER, MOMENT = "^", "@"


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    connection = Connection()
    write(connection, [f"{BARE}warm-up"], 1)
    print("ready", flush=True)
    for line in sys.stdin.buffer:
        print(orjson.dumps(asdict(do(connection, Job(**orjson.loads(line))))).decode(), flush=True)


def do(connection: "Connection", job: Job) -> Done:
    began, computed, latest = time.monotonic(), time.process_time(), 0.0
    for turn in range(job.count):
        for piece in range(job.slices):
            late = _await(began + job.period * (turn + piece / job.slices))
            latest = max(latest, late if job.period else 0.0)
            write(connection, job.ids[piece :: job.slices], job.first + turn)
    return Done(time.monotonic() - began, latest, time.process_time() - computed)


def _await(due: float) -> float:
    """Sleep until then; return by how much it is too late already."""
    pause = due - time.monotonic()
    if pause > 0:
        time.sleep(pause)
    return max(-pause, 0.0)


class Connection:
    """Our own connection to Redis: what is sent is bytes already, and of the answers only errors are looked at."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(embedded.redis_socket(Path(os.environ["LOCAL_DIR"]))))
        self._reader = hiredis.Reader()

    def ask(self, commands: bytes, answers: int) -> None:
        self._socket.sendall(commands)
        while answers:
            self._reader.feed(self._socket.recv(1 << 18))
            while answers and (answer := self._reader.gets()) is not False:
                answers -= 1
                if isinstance(answer, Exception):
                    raise answer


class Template(NamedTuple):
    """The commands of an event of one execution, with places for its number and the moment."""

    commands: bytes
    answers: int
    number: bytes
    moment: bytes

    def filled(self, number: bytes, moment: bytes) -> bytes:
        return self.commands.replace(self.number, number).replace(self.moment, moment)


@cache
def template(id_: str, digits: int, moment_digits: int) -> Template:
    """Let the channel make the commands once for all numbers of so many digits: it would cost more than Redis."""
    number, moment = NUMBER * digits, MOMENT * moment_digits
    event: Any = {"type": "token", "step": "", "text": f"{number}:{moment} ", "id": f"1-{number}"}
    pipeline = redis_client().pipeline(transaction=False)
    if id_.startswith(BARE):
        add_bare_event(pipeline, id_, event)
    else:
        add_event(pipeline, id_, event)
    commands = [hiredis.pack_command(arguments) for arguments, _ in pipeline.command_stack]
    return Template(b"".join(commands), len(commands), number.encode(), moment.encode())


def write(connection: Connection, ids: list[str], number: int) -> None:
    """Write one event to each, in one round trip."""
    text, commands, count = b"%d" % number, [], 0
    for id_ in ids:
        moment = b"%d" % time.monotonic_ns()
        made = template(id_, len(text), len(moment))
        commands.append(made.filled(text, moment))
        count += made.answers
    connection.ask(b"".join(commands), count)


def add_bare_event(pipeline: "Pipeline", channel: str, event: Any) -> None:
    """Give Redis as much to do as the product does, and publish the very bytes that a watcher shall get."""
    pipeline.xadd(channel, {"e": orjson.dumps(event)}, maxlen=STREAM_LENGTH, approximate=True)
    pipeline.publish(channel, bare_frame(event))


def bare_frame(event: Any) -> bytes:
    """Return what the product sends for this event, as a chunk of the stream."""
    data = orjson.dumps({"step": event["step"], "text": event["text"]})
    frame = b"id: %s\nevent: token\ndata: %s\n\n" % (event["id"].encode(), data)
    return b"%x\r\n%s\r\n" % (len(frame), frame)


if __name__ == "__main__":
    main()
