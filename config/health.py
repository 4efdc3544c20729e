"""The health check of a web container: asks its own server, by a name that it answers to."""

import os
import sys
import urllib.request


def main(port: str) -> None:
    """Raise an error, and so exit with 1, where the server does not answer well."""
    first_name = os.environ.get("ALLOWED_HOSTS", "").split(",")[0].strip().lstrip(".")
    url = f"http://127.0.0.1:{port}/health/"
    request = urllib.request.Request(url, headers={"Host": first_name or "localhost"})
    with urllib.request.urlopen(request, timeout=4):  # noqa: S310  our own address
        pass


if __name__ == "__main__":
    main(sys.argv[1])
