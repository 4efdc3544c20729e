"""Programs on the PATH. Without one its tests are skipped, or fail where REQUIRE_PROGRAMS=1."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest


def program(*names: str) -> str:
    """Return where the first of them is that there is."""
    found = next(filter(None, map(shutil.which, names)), None)
    if not found:
        cannot(f"There is no {names[0]} on PATH.")
    return found


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Return a key and a certificate of localhost, signed with it."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    make = f"req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -keyout {key} -out {certificate}"
    make += " -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run([program("openssl"), *make.split()], check=True, capture_output=True)
    return key, certificate


def cannot(reason: str) -> NoReturn:
    """End a test that lacks what it needs from outside."""
    if os.environ.get("REQUIRE_PROGRAMS") == "1":
        pytest.fail(f"REQUIRE_PROGRAMS=1, and: {reason}")
    pytest.skip(reason)
