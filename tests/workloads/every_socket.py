"""One socket per case: `every_socket.py LIBRARY [nobody|later]`; says what each descriptor is, as JSON, and waits.

LIBRARY is every_socket.c, built. "nobody" gives up root when all are open: some can be made by root alone. "later"
begins with a line that says "ready", and goes on after one from standard input.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys
import threading

NOBODY = 65534
PR_SET_DUMPABLE = 4


def main() -> None:
    """Opens all, says which, and polls the routing socket in a thread until standard input ends."""
    library = ctypes.CDLL(sys.argv[1])
    library.case_name.restype = ctypes.c_char_p
    process = ctypes.CDLL(None)
    process.prctl(15, b"every-socket", 0, 0, 0)
    opened, unavailable = {}, {}
    if sys.argv[2:] == ["later"]:
        print("ready", flush=True)
        sys.stdin.readline()
    for number in range(library.case_count()):
        name, fd = library.case_name(number).decode(), library.open_case(number)
        if fd < 0:
            unavailable[name] = errno.errorcode.get(-fd, str(-fd))
        else:
            opened[name] = fd
    if sys.argv[2:] == ["nobody"]:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        process.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # as ordinary processes are

    def serve() -> None:
        process.prctl(15, b"router", 0, 0, 0)
        ctypes.CDLL(None).recv(opened["netlink_routing"], ctypes.create_string_buffer(1), 1, 2)  # MSG_PEEK

    threading.Thread(target=serve, daemon=True).start()
    print(json.dumps({"ready": True, "opened": opened, "unavailable": unavailable}), flush=True)
    sys.stdin.read()


main()
