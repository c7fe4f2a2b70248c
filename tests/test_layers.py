"""The walls of the house: data flows one way, and who may open /proc, import bcc, print or exit."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCE = ROOT / "src" / "threadinfo"
MODULES = sorted(SOURCE.rglob("*.py"))

# Each layer may import from these and from itself.
MAY_IMPORT = {
    "errors": set(),
    "containment": {"errors", "model"},
    "model": set(),
    "descriptor_kinds": set(),
    "netlink_names": set(),
    "protocol_names": set(),
    "syscall_numbers": set(),
    "own_rights": set(),
    "proc": {"own_rights", "model", "descriptor_kinds", "netlink_names", "protocol_names", "syscall_numbers"},
    "tracers": {"trace"},  # for types; what it loads it loads late
    "trace": {"tracers", "model", "descriptor_kinds", "errors", "netlink_names", "protocol_names", "syscall_numbers"}
    | {"containment", "socket_identity", "socket_story", "own_rights"},
    "socket_identity": {"model"},
    "socket_story": {"model", "socket_identity"},
    "merge": {"model", "descriptor_kinds", "socket_story", "socket_identity"},
    "findings": {"model", "containment", "socket_story"},
    "render": {"model", "descriptor_kinds", "errors", "findings", "socket_story", "socket_identity", "containment"},
    "snapshot": {"model"},
    "collect": {"errors", "model", "proc", "trace", "tracers", "merge", "findings", "socket_story", "snapshot"}
    | {"containment", "own_rights"},
    "top": {"model", "errors", "render", "snapshot"},  # it draws, and never collects
    "cli": {"errors", "model", "descriptor_kinds", "proc", "trace", "tracers", "collect", "findings", "render", "top"}
    | {"containment", "own_rights"},
    "__main__": {"cli"},
}


def layer(path: Path) -> str:
    """The first part of a module's name below threadinfo."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> set[str]:
    """Every module that is imported anywhere in the file, type checking included."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_layer_imports_only_what_it_may(path: Path) -> None:
    own = layer(path)
    if own == "__init__":
        return
    used = {
        name.split(".")[1] for name in imports(ast.parse(path.read_text())) if name.startswith("threadinfo.")
    } & set(MAY_IMPORT)
    assert used - {own} <= MAY_IMPORT[own], f"{own} imports {used - {own} - MAY_IMPORT[own]}"


OF_NO_PROCESS = ("/proc/self", "/proc/sys", "/proc/stat", "/proc/kallsyms")
"""Files of /proc that tell of ourselves or of the machine."""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_who_may_open_proc_import_bcc_print_and_exit(path: Path) -> None:
    name, tree = str(path.relative_to(SOURCE)), ast.parse(path.read_text())
    used = imports(tree)
    assert "bcc" not in used or name == "trace/kernel/compiler.py"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        call = ast.unparse(node.func)
        if call in {"print", "click.echo", "sys.exit"}:
            assert name.startswith("cli/"), f"{name}:{node.lineno} calls {call}"
        if call in {"open", "os.open", "os.listdir", "os.readlink", "os.scandir"} and "/proc" in ast.unparse(node):
            allowed = name == "proc/reader.py" or any(own in ast.unparse(node) for own in OF_NO_PROCESS)
            assert allowed, f"{name}:{node.lineno} opens /proc"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_one_way_leads_from_text_to_the_terminal(path: Path) -> None:
    """mypy holds that only a `Printable` is written, and this that only two places make one; so with what top draws."""
    name = str(path.relative_to(SOURCE))
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    for node in calls:
        call, line = ast.unparse(node.func), ast.unparse(node)
        assert call != "Printable" or name in {"render/escape.py", "render/json.py"}, f"{name}: {line}"
        assert call not in {"Segment", "Text", "Static"} or line == "Segment(format_text(text), style)", (
            f"{name}: {line}"
        )
        assert call != "click.echo" or "printable(" in line, f"{name}: {line}"


# What runs in the child that reads hostile files. It opens nothing: descriptors come from its parent.
CHILD = ("libdw", "confinement", "messages", "child")


@pytest.mark.parametrize("name", CHILD)
def test_unwinding_child_opens_no_path(name: str) -> None:
    tree = ast.parse((SOURCE / "trace" / "stacks" / f"{name}.py").read_text())
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    opened = [call for call in calls if call in {"open", "os.open", "Path", "os.memfd_create"}]
    assert opened == []


def test_unwinding_child_imports_little() -> None:
    program = f"import sys; sys.path.append({str(SOURCE.parent)!r}); import threadinfo.trace.stacks.child as child"
    command = [sys.executable, "-I", "-S", "-c", f"{program}; print(*sys.modules)"]
    loaded = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    own = {name for name in loaded if name.startswith("threadinfo.")}
    rooms = {"threadinfo.errors", "threadinfo.trace", "threadinfo.trace.stacks"}
    assert own == rooms | {f"threadinfo.trace.stacks.{name}" for name in CHILD}
    assert not loaded & {"socket", "subprocess", "json", "msgspec", "tempfile", "numpy"}


def test_only_one_module_binds_libdw() -> None:
    naming = {path.name for path in MODULES if "libdw.so" in path.read_text()}
    assert naming == {"libdw.py"}


def test_the_rule_itself_finds_a_breach() -> None:
    assert "threadinfo.render" in imports(ast.parse("def f():\n    from threadinfo.render import text\n"))


# What a plain report may not import: it would start more slowly for it.
HEAVY = {"bcc", "numpy", "textual", "rich", "jinja2", "json", "asyncio", "subprocess", "psutil"}


def test_plain_report_of_a_pid_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom threadinfo.cli.main import main\n"
        "sys.argv = ['threadinfo', '1', '-o', '/dev/null']\n"
        "try:\n    main()\nfinally:\n    print(*sys.modules)\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
    loaded = _modules_of(program, environment)
    libraries = _modules_of("import sys, click, msgspec\nprint(*sys.modules)\n", environment)  # uuid's, in Python 3.10
    assert "threadinfo" in loaded
    assert loaded & HEAVY <= libraries


def _modules_of(program: str, environment: dict[str, str]) -> set[str]:
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return {name.split(".")[0] for name in result.stdout.split()}
