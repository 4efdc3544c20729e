"""The figures: a module each, with one function from a Bench to rows.

The order matters: the cold start needs a folder in which nothing runs yet, idle memory a product that has
done nothing yet.
"""

from collections.abc import Awaitable, Callable

from benchmarks.bench import Bench
from benchmarks.figures.added_time import measure_added_time
from benchmarks.figures.backlog import measure_backlog
from benchmarks.figures.cold_start import measure_cold_start
from benchmarks.figures.connects import measure_connects
from benchmarks.figures.deliveries import measure_deliveries
from benchmarks.figures.deploy import measure_deploy
from benchmarks.figures.first_event import measure_first_event
from benchmarks.figures.growth import measure_growth
from benchmarks.figures.journal import measure_journal
from benchmarks.figures.latency import measure_latency
from benchmarks.figures.mails import measure_mails
from benchmarks.figures.many_runs import measure_many_runs
from benchmarks.figures.memory import measure_memory
from benchmarks.figures.open_streams import measure_open_streams
from benchmarks.figures.storm import measure_storm
from benchmarks.figures.subscriber import measure_subscriber
from benchmarks.figures.throughput import measure_four_steps, measure_throughput
from benchmarks.figures.tokens import measure_tokens
from benchmarks.figures.worker_cost import measure_worker_cost
from benchmarks.results import Row

FIGURES: dict[str, Callable[[Bench], Awaitable[list[Row]]]] = {
    "cold-start": measure_cold_start,
    "memory": measure_memory,
    "first-event": measure_first_event,
    "added-time": measure_added_time,
    "journal": measure_journal,
    "throughput": measure_throughput,
    "four-steps": measure_four_steps,
    "backlog": measure_backlog,
    "mails": measure_mails,
    "deliveries": measure_deliveries,
    "latency": measure_latency,
    "open-streams": measure_open_streams,
    "connects": measure_connects,
    "worker-cost": measure_worker_cost,
    "growth": measure_growth,
    "many-runs": measure_many_runs,
    "tokens": measure_tokens,
    "subscriber": measure_subscriber,
    "storm": measure_storm,
    "deploy": measure_deploy,
}
