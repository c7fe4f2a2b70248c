"""ioctl_made.py: waits for a line, makes 3 descriptors by an ioctl (TIOCGPTPEER), says "done", waits for another."""

from __future__ import annotations

import fcntl
import os
import pty
import sys

TIOCGPTPEER = 0x5441

main, other = pty.openpty()
print("ready", flush=True)
sys.stdin.readline()
made = [fcntl.ioctl(main, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY) for _ in range(3)]
print(*made, flush=True)
sys.stdin.readline()
