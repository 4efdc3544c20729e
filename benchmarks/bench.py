"""What a figure is measured with: the running product, and how often to repeat."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.product import Product, running_product


class Bench:
    """One run of the benchmark. The product starts when the first figure asks for it, and runs to the end."""

    def __init__(self, local_dir: Path, stack: ExitStack, *, quick: bool) -> None:
        self.local_dir = local_dir
        self._stack = stack
        self._quick = quick
        self._product: Product | None = None

    @property
    def product(self) -> Product:
        if self._product is None:
            self._product = self._stack.enter_context(running_product(self.local_dir))
        return self._product

    def choose(self, full: int, quick: int) -> int:
        """Return how often to repeat, or for how many seconds."""
        return quick if self._quick else full


@contextmanager
def prepared_bench(*, quick: bool) -> Iterator[Bench]:
    """Give a bench in a temporary folder, which goes away with everything that was started."""
    local_dir = Path(tempfile.mkdtemp(prefix="api-ctm-bench-", dir="/tmp"))  # short: the sockets are in it
    try:
        with ExitStack() as stack:
            yield Bench(local_dir, stack, quick=quick)
    finally:
        shutil.rmtree(local_dir, ignore_errors=True)
