"""Runs threadinfo or a workload without privileges: `python -m tests.unprivileged threadinfo|SCRIPT ARGUMENTS`.

Everything is imported and compiled first, because the interpreter and this checkout may lie where that user cannot go.
"""

from __future__ import annotations

import ast
import ctypes
import difflib  # noqa: F401 - click imports it when it is first needed
import encodings.idna  # noqa: F401 - the socket module imports it when it is first needed
import importlib
import os
import pkgutil
import sys
from pathlib import Path

NOBODY = 65534
_PR_SET_DUMPABLE = 4


def import_all_of(source: str) -> None:
    """Imports what a script imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            importlib.import_module(node.module)


def become_nobody() -> None:
    """Gives up root for good; stays readable in /proc for processes of the same user, as ordinary processes are."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def main() -> None:
    """Runs what the arguments say."""
    program = sys.argv[1]
    sys.argv[:] = sys.argv[1:]
    if program == "threadinfo":
        import psutil  # noqa: F401

        import threadinfo

        for module in pkgutil.walk_packages(threadinfo.__path__, "threadinfo."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        from threadinfo.cli.main import main as run

        become_nobody()
        run()
    else:
        source = Path(program).read_text()
        import_all_of(source)
        code = compile(source, program, "exec")
        become_nobody()
        exec(code, {"__name__": "__main__", "__file__": program})


main()
