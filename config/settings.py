"""All settings, each read once from the environment or from `.env`; `.env.example` names every one.

Development is whatever `manage.py dev` or pytest started (they set DEVELOPMENT), and whatever command of `manage.py`
joins a running `manage.py dev`. Everything else is production and refuses to start on an unsafe setting.
"""

import hashlib
import os
import pkgutil
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import environ
from anymail import backends as mail_services
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _

from config import embedded

BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.Env()
env.read_env(env.str("ENV_FILE", default=str(BASE_DIR / ".env")))
# A value that begins with $ would be taken for another variable's name. Escaped, each is read as it is.
env.ENVIRON = {name: value.replace("$", r"\$") for name, value in os.environ.items()}
env.escape_proxy = True

LOCAL_DIR = Path(env.str("LOCAL_DIR", default="") or BASE_DIR / ".local").resolve()
# A server that somebody starts beside it must not become lenient, so only manage.py joins.
JOINS = Path(sys.argv[0]).name == "manage.py" and embedded.is_running(LOCAL_DIR)
DEVELOPMENT: bool = env.bool("DEVELOPMENT", default=JOINS)
DEBUG: bool = env.bool("DEBUG", default=False)
SECRET_KEY: str = env.str("SECRET_KEY", default="")
ALLOWED_HOSTS: list[str] = env.list(
    "ALLOWED_HOSTS", default=["*"] if DEVELOPMENT else ["localhost", "127.0.0.1"]
)
CSRF_TRUSTED_ORIGINS: list[str] = env.list("CSRF_TRUSTED_ORIGINS", default=[])

if DEVELOPMENT:
    SECRET_KEY = SECRET_KEY or embedded.secret_key(LOCAL_DIR)
elif not SECRET_KEY:
    raise ImproperlyConfigured(
        "SECRET_KEY is not set. Put a long random string into .env or the environment. "
        "In development this needs `make run` in another terminal, with the same LOCAL_DIR."
    )
elif DEBUG:
    raise ImproperlyConfigured("DEBUG is on. It shows internals to visitors: remove it, or use `make run`.")
elif "*" in ALLOWED_HOSTS:
    raise ImproperlyConfigured("ALLOWED_HOSTS is a wildcard. Name the hosts this server answers to.")

# Apps and requests

INSTALLED_APPS = [
    "accounts",
    "main",
    "notifications",
    "ops",
    "django.contrib.admin.apps.SimpleAdminConfig",  # config/urls.py finds the admins: workers need none
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.postgres",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "csp",
]
MIDDLEWARE = [
    "main.middleware.DatabaseAwayMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
# What it takes to know who comes to watch, and to answer in their language. A stream is no page: the rest is for those.
STREAM_MIDDLEWARE = [
    name
    for name in MIDDLEWARE
    if name.rpartition(".")[2]
    in (
        "DatabaseAwayMiddleware",
        "SecurityMiddleware",
        "SessionMiddleware",
        "LocaleMiddleware",
        "CommonMiddleware",
        "AuthenticationMiddleware",
    )
]
ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
APPEND_SLASH = False  # every path is served with and without it; a POST is never redirected
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "notifications.context.told",
            ],
        },
    },
]
REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["main.api.SessionAuthentication"],
    "DEFAULT_PARSER_CLASSES": ["main.api.JSONObjectParser"],
    "DEFAULT_RENDERER_CLASSES": ["main.api.JSONRenderer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "main.api.AlwaysJSON",
    "EXCEPTION_HANDLER": "main.api.problem_response",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
MAX_BODY_BYTES: int = env.int("MAX_BODY_BYTES", default=1024 * 1024)
# The ASGI wrapper counts while it reads; Django must not be stricter.
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES
# How many reverse proxies stand before the server and append to X-Forwarded-For.
PROXIES: int = env.int("PROXIES", default=0)

# Databases

DATABASES: dict[str, dict[str, Any]]
if env.str("DATABASE_URL", default=""):
    DATABASES = {"default": env.db("DATABASE_URL")}
elif env.str("POSTGRES_HOST", default=""):
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": env.str("POSTGRES_HOST"),
            "PORT": env.str("POSTGRES_PORT", default="5432"),
            "NAME": env.str("POSTGRES_DB", default="api_ctm"),
            "USER": env.str("POSTGRES_USER", default="api_ctm"),
            "PASSWORD": env.str("POSTGRES_PASSWORD", default=""),
        }
    }
else:
    DATABASES = {"default": embedded.database(LOCAL_DIR, name=env.str("POSTGRES_DB", default="api_ctm"))}
# PostgreSQL ends who sits in a transaction and says nothing, after so many milliseconds: a process that hangs there
# would keep its locks, and nobody could take back what it held.
SILENCE_IN_TRANSACTION = "-c idle_in_transaction_session_timeout=5000"
DATABASES["default"] |= {
    "CONN_MAX_AGE": 0,  # the pool keeps connections; each is given back as soon as it is not needed
    "CONN_HEALTH_CHECKS": True,
    "OPTIONS": {
        "connect_timeout": 2,
        **DATABASES["default"].get("OPTIONS", {}),  # such as sslmode in DATABASE_URL
        "options": f"{SILENCE_IN_TRANSACTION} {DATABASES['default'].get('OPTIONS', {}).get('options', '')}".strip(),
        "pool": {
            "min_size": 1,
            "max_size": env.int("DATABASE_POOL_SIZE", default=10),
            "timeout": 2,
            "num_workers": 1,  # the threads that open connections
            # The pool would wait twice as long before each try: after a minute's outage for another minute.
            "reconnect_timeout": 2,
        },
    },
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL: str = env.str("REDIS_URL", default="") or embedded.redis_url(LOCAL_DIR)

# Celery carries bells: messages without an id that say "there is work".

CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://", 1)
CELERY_RESULT_BACKEND = CELERY_BROKER_URL
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 24 * 3600}
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_DEFAULT_QUEUE = "io"

# Flows, models, search

# Packages outside this project whose modules are flows, by import path.
FLOW_MODULES: list[str] = env.list("FLOW_MODULES", default=[])
GEMINI_API_KEY: str = env.str("GEMINI_API_KEY", default="")
GOOGLE_GEMINI_BASE_URL: str = env.str("GOOGLE_GEMINI_BASE_URL", default="")
TAVILY_API_KEY: str = env.str("TAVILY_API_KEY", default="")
TAVILY_BASE_URL: str = env.str("TAVILY_BASE_URL", default="")
# "provider:model"; empty means Gemini with a key, the demo model without.
CHAT_MODEL: str = env.str("CHAT_MODEL", default="")
# Seconds between two words of the demo model, so that a poem is seen to grow.
DEMO_TOKEN_DELAY: float = env.float("DEMO_TOKEN_DELAY", default=0.03)
# Seconds a provider may stay silent before a call is given up.
PROVIDER_TIMEOUT: float = env.float("PROVIDER_TIMEOUT", default=60.0)

# Executions

# Starts a minute for one anonymous session, and for one address.
ANONYMOUS_STARTS_PER_MINUTE: int = env.int("ANONYMOUS_STARTS_PER_MINUTE", default=60)
# Seconds from the first claim, where a flow does not say.
EXECUTION_TIME_LIMIT: int = env.int("EXECUTION_TIME_LIMIT", default=3600)
# How many executions of one owner run at once, over all workers; 0 for no limit.
OWNER_CONCURRENCY: int = env.int("OWNER_CONCURRENCY", default=0)
# Days after its end for which an execution is kept; 0 for ever.
EXECUTION_RETENTION_DAYS: int = env.int("EXECUTION_RETENTION_DAYS", default=90)
# How many executions one io worker (threads) and one cpu worker (processes) run at once.
IO_CONCURRENCY: int = env.int("IO_CONCURRENCY", default=32)
CPU_CONCURRENCY: int = env.int("CPU_CONCURRENCY", default=2)
# Megabytes that an execution in a cpu worker may use; 0 for no limit.
CPU_MEMORY_MB: int = env.int("CPU_MEMORY_MB", default=1024)
# Seconds that Redis keeps an execution's events and task meta after the last one.
EVENT_RETENTION: int = env.int("EVENT_RETENTION", default=24 * 3600)
# Streams that a visitor's session, and a user in all their sessions, may hold open at each web process; 0 for no limit.
MAX_STREAMS_PER_VISITOR: int = env.int("MAX_STREAMS_PER_VISITOR", default=50)
MAX_STREAMS_PER_USER: int = env.int("MAX_STREAMS_PER_USER", default=200)

# People, security

AUTH_USER_MODEL = "accounts.User"
LOGIN_URL = "sign_in"
LOGIN_REDIRECT_URL = LOGOUT_REDIRECT_URL = "home"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
# Off only for a trial on http://localhost: cookies then travel in the clear.
HTTPS: bool = env.bool("HTTPS", default=not DEVELOPMENT)
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
if DEVELOPMENT:
    # Cookies know no ports: platforms side by side on one machine would sign each other's people out.
    SESSION_COOKIE_NAME = f"sessionid_{hashlib.sha256(str(LOCAL_DIR).encode()).hexdigest()[:8]}"
SECURE_REDIRECT_EXEMPT = [r"^health/?$"]
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if PROXIES else None
# Seconds for which browsers shall ask this domain, and all below it, over HTTPS only.
SECURE_HSTS_SECONDS: int = env.int("HSTS_SECONDS", default=365 * 24 * 3600) if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "base-uri": ["'self'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
        "object-src": ["'none'"],
    }
}

# Mail

# Where people reach this server, for links in mails. `manage.py dev` says it to the processes that it starts.
if JOINS:
    _reached_at = f"http://127.0.0.1:{embedded.port(LOCAL_DIR)}"
else:
    _reached_at = f"{'https' if HTTPS else 'http'}://{ALLOWED_HOSTS[0].strip('*.') or 'localhost'}"
PUBLIC_URL: str = env.str("PUBLIC_URL", default="").rstrip("/") or _reached_at
if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", PUBLIC_URL):
    raise ImproperlyConfigured(
        f"PUBLIC_URL is {PUBLIC_URL!r}. It has to be an address such as https://flows.example.com"
    )
EMAIL_URL: str = env.str("EMAIL_URL", default="")
EMAIL_SERVICE: str = env.str("EMAIL_SERVICE", default="")
DEFAULT_FROM_EMAIL: str = env.str(
    "DEFAULT_FROM_EMAIL", default=f"API-CTM <no-reply@{urlsplit(PUBLIC_URL).hostname}>"
)
# Seconds that a mail server or service may stay silent before a try is given up.
EMAIL_TIMEOUT: int = env.int("EMAIL_TIMEOUT", default=20)
MAIL_FOLDER = LOCAL_DIR / "mail"
MAIL_PORTS = {"smtp": "25", "smtp+tls": "587", "smtp+ssl": "465"}
# What django-anymail asks for, such as ANYMAIL_MAILGUN_API_KEY.
ANYMAIL = {
    name.removeprefix("ANYMAIL_"): {"true": True, "false": False}.get(value.lower(), value)
    for name, value in os.environ.items()
    if name.startswith("ANYMAIL_")
} | {"REQUESTS_TIMEOUT": EMAIL_TIMEOUT}
if EMAIL_SERVICE:
    _known = {module.name for module in pkgutil.iter_modules(mail_services.__path__)}
    _known -= {"base", "base_requests", "console", "test"}
    if EMAIL_SERVICE not in _known:
        raise ImproperlyConfigured(
            f"EMAIL_SERVICE is {EMAIL_SERVICE!r}. It has to be one of: {', '.join(sorted(_known))}."
        )
    EMAIL_BACKEND = f"anymail.backends.{EMAIL_SERVICE}.EmailBackend"
elif EMAIL_URL:
    _server = re.fullmatch(
        r"(smtp|smtp\+tls|smtp\+ssl)://([^\s/?#]*@)?(\[[\da-f:.]+\]|[^\s/?#@:[\]]+)(?::([1-9]\d{0,4}))?/?",
        EMAIL_URL,
    )
    EMAIL_PORT = int(_server[4] or MAIL_PORTS[_server[1]]) if _server else 0
    if not 0 < EMAIL_PORT < 2**16:
        raise ImproperlyConfigured(  # without its value, which holds a password
            "EMAIL_URL has to be an address such as smtp+tls://user:password@smtp.example.com:587, or begin with "
            "smtp:// or smtp+ssl://, with special characters of user and password percent-encoded."
        )
    vars().update(env.email("EMAIL_URL") | {"EMAIL_PORT": EMAIL_PORT})
    # A plus is one here; django-environ takes it for a space.
    EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = (
        unquote(part or "") for part in (urlsplit(EMAIL_URL).username, urlsplit(EMAIL_URL).password)
    )
    EMAIL_BACKEND = "notifications.smtp.EmailBackend"
elif DEVELOPMENT:
    EMAIL_BACKEND = "notifications.mail_folder.EmailBackend"
else:
    EMAIL_BACKEND = ""  # what is to be sent waits
# How many mails one receiver gets in so many seconds; what is more comes as one digest. 0 for no limit.
MAILS_PER_RECEIVER: int = env.int("MAILS_PER_RECEIVER", default=10)
MAIL_PERIOD: int = env.int("MAIL_PERIOD", default=600)
# Seconds before a mail that was put off is tried again, doubling each time, and hours after which it is given up.
MAIL_RETRY_SECONDS: float = env.float("MAIL_RETRY_SECONDS", default=30.0)
MAIL_RETRY_HOURS: float = env.float("MAIL_RETRY_HOURS", default=24.0)
# How many mails one notifications worker sends at once.
NOTIFICATION_CONCURRENCY: int = env.int("NOTIFICATION_CONCURRENCY", default=4)

# Language, time, files

LANGUAGE_CODE = env.str("LANGUAGE_CODE", default="en")
LANGUAGES = [("en", _("English")), ("es", _("Spanish"))]
LOCALE_PATHS = [BASE_DIR / "locale"]
TIME_ZONE = env.str("TIME_ZONE", default="UTC")
USE_TZ = True
STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = WHITENOISE_AUTOREFRESH = DEVELOPMENT
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEVELOPMENT
        else "config.storage.StaticStorage"
    },
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": "config.logs.MaskingFormatter",
            "format": "%(asctime)s %(levelname)s %(name)s: %(message)s",
        }
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": env.str("LOG_LEVEL", default="INFO")},
    "loggers": {
        "httpx": {"level": "WARNING"},
        "celery.app.trace": {"level": "WARNING"},
        "celery.worker.strategy": {"level": "WARNING"},  # a line for every bell
    },
}
