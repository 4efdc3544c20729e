"""How each process of the platform is called, by `manage.py dev` and in docker-compose.yml alike."""


def commands(*, bind: str, web: int, io: int, cpu: int, notifications: int = 4) -> dict[str, list[str]]:
    """Return the command line of each process.

    The others are numbers: `web` of web processes, `io` and `cpu` of executions at once in either worker, and
    `notifications` of mails.
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
        "worker-notifications": worker("notifications", "threads", notifications),
    }


def worker(kind: str, pool: str, concurrency: int) -> list[str]:
    return [
        *("python", "-m", "celery", "-A", "config", "-q", "worker", "-P", pool, "-c", str(concurrency)),
        *("-Q", kind, "-n", f"{kind}@%h", "--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]
