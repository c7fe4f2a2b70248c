"""spreading.py: makes a child every 50 ms, a hundred at most, each of which opens and closes a file 20 times a second.

Prints "ready" before the first. It ends, with them all, when it is told to or its standard input does.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

MOST = 100


def main() -> None:
    """Until standard input ends."""
    children: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    print("ready", flush=True)
    try:
        while not select.select([0], [], [], 0.05)[0]:
            if len(children) < MOST:
                if child := os.fork():
                    children.append(child)
                    continue
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                while os.getppid() != 1:
                    os.close(os.open("/dev/null", os.O_RDONLY))
                    time.sleep(0.05)
                os._exit(0)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    main()
