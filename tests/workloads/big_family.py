"""big_family.py: a family of many that come and go, of which some are older than the trace and some stay.

Says "ready" and who is older, goes on after a line, makes its children, and says as JSON what they did; then waits for
the end of its input, and so do those that stay. Counts are primes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

OLDER, QUICK, OPENED, PROGRAMS, STAYING, OPENED_BY_STAYING = 3, 211, 7, 13, 5, 17


def child(do: Callable[[], None]) -> int:
    pid = os.fork()
    if not pid:
        do()
        os._exit(0)
    return pid


def open_some(count: int) -> None:
    for _ in range(count):
        os.close(os.open("/dev/zero", os.O_RDONLY))


def main() -> None:
    held, hold = os.pipe()
    ready, done = os.pipe()

    def stay() -> None:
        os.close(hold)
        open_some(OPENED_BY_STAYING)
        os.write(done, b"x")
        os.read(held, 1)

    def wait() -> None:
        os.close(hold)
        os.read(held, 1)

    older = [child(wait) for _ in range(OLDER)]
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(QUICK):
        os.waitpid(child(lambda: open_some(OPENED)), 0)
    for _ in range(PROGRAMS):
        subprocess.run(["/bin/true", "of", "7", "words"], check=True, close_fds=False)
    staying = [child(stay) for _ in range(STAYING)]
    for _ in staying:
        os.read(ready, 1)
    said = {"me": os.getpid(), "older": older, "staying": staying}
    print(json.dumps(said), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
