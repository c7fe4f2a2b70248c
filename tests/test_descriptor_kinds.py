"""Every kind of descriptor is named for what it is, for root and for its owner without privileges."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from tests.conftest import WORKLOADS, Run, Start
from threadinfo.render.escape import format_text

KINDS_FOR_ROOT, KINDS_FOR_ANYONE = 79, 68


@pytest.mark.parametrize("maker", ["root", "owner", "root, owned by another"])
def test_every_descriptor_is_named_for_what_it_is(maker: str, start: Start, threadinfo: Run, shared_path: Path) -> None:
    privileged = maker == "root"
    if maker != "owner" and os.geteuid():
        pytest.skip("not root: only the case of an owner without privileges can be had")
    shared_path.chmod(0o777)
    launcher = ["-m", "tests.unprivileged"] if maker == "owner" else []
    gives_up = ["nobody"] if maker == "root, owned by another" else []
    process = start(sys.executable, *launcher, WORKLOADS / "every_descriptor.py", shared_path, *gives_up)
    truth = json.loads(process.first_line)  # type: ignore[attr-defined]
    result = threadinfo(process.pid, "--format", "json", privileged=privileged)
    text = threadinfo(process.pid, privileged=privileged)
    assert (result.returncode, text.returncode) == (0, 0), result.stderr + text.stderr
    found = {descriptor["fd"]: descriptor for descriptor in json.loads(result.stdout)["processes"][0]["descriptors"]}

    wrong = []
    for expected in truth["descriptors"]:
        descriptor = found[expected["fd"]]
        details = expected["details"]
        if not privileged and descriptor["type"].startswith("bpf"):
            details.pop("name", None)  # bpf(2) tells names to root alone
        if not privileged and expected["case"] == "inotify, of what nothing but the watch holds":
            for watch in details["watches"]:
                watch["path"] = None  # open_by_handle_at(2) is root's
        named = re.fullmatch(expected["description"], descriptor["description"], re.DOTALL)
        same = all(descriptor["details"].get(key) == value for key, value in details.items())
        if not (named and same and descriptor["type"] == expected["type"]):
            wrong.append((expected, descriptor["type"], descriptor["description"], descriptor["details"]))
        assert format_text(descriptor["description"]) in text.stdout
    count = len(truth["descriptors"])
    print(f"{count - len(wrong)} of {count} descriptors named right; refused: {truth['unavailable']}")
    assert wrong == []
    assert count >= (KINDS_FOR_ANYONE if maker == "owner" else KINDS_FOR_ROOT)
