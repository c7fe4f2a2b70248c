"""Where the command begins, as `threadinfo` and, for hosts where that is not on the path, `python -m threadinfo`."""

from __future__ import annotations

import signal


def main() -> None:
    """Runs the command. While it is imported Ctrl-C ends us as it does any program: a traceback would tell nothing."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from threadinfo.cli.main import main as run  # noqa: PLC0415

    signal.signal(signal.SIGINT, handler)
    run()


if __name__ == "__main__":
    main()
