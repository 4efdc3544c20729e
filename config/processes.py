"""How each process of the platform is called, by `manage.py dev` and in docker-compose.yml alike."""


def commands(*, bind: str, web: int, io: int, cpu: int) -> dict[str, list[str]]:
    """Return the command line of each process.

    `web`, `io` and `cpu` are numbers: of web processes, and of executions at once in either worker.
    """
    return {
        "web": [
            *("python", "-m", "gunicorn", "config.asgi:application", "-k", "config.worker.Worker"),
            *("--no-control-socket", "--bind", bind, "--workers", str(web), "--graceful-timeout", "3"),
            *(
                "--backlog",
                "8192",
            ),  # those who come back after a deploy; Linux takes as many as its somaxconn
        ],
        "worker-io": worker("io", "threads", io),
        "worker-cpu": worker("cpu", "prefork", cpu),
    }


def worker(kind: str, pool: str, concurrency: int) -> list[str]:
    return [
        *("python", "-m", "celery", "-A", "config", "-q", "worker", "-P", pool, "-c", str(concurrency)),
        *("-Q", kind, "-n", f"{kind}@%h", "--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]
