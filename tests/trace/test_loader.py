"""Finding bcc, refusing a wrong one, saying what is wrong; doctor."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.conftest import Run
from threadinfo.errors import NotAvailableError
from threadinfo.trace.kernel import compiler, loader
from threadinfo.trace.kernel.btf import KernelTypes
from threadinfo.trace.kernel.doctor import examine


def test_load_bcc_refuses_the_unrelated_package_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "bcc"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('a wrong bcc was run')")
    monkeypatch.setattr(compiler, "_DISTRIBUTION", (str(tmp_path),))
    monkeypatch.delitem(sys.modules, "bcc", raising=False)
    with pytest.raises(NotAvailableError, match="is not the BPF Compiler Collection") as caught:
        compiler.load_bcc()
    assert "python3-bpfcc" in (caught.value.remedy or "")


def test_load_bcc_that_is_missing_names_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_DISTRIBUTION", (str(tmp_path),))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.delitem(sys.modules, "bcc", raising=False)
    with pytest.raises(NotAvailableError, match="not installed"):
        compiler.load_bcc()


def test_find_bcc_searches_versioned_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "python3.12" / "site-packages" / "bcc"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.setattr(compiler, "_DISTRIBUTION", (f"{tmp_path}/python3*/site-packages",))
    assert compiler.find_bcc() == package


def test_bpf_directory_has_the_sources() -> None:
    assert (loader.bpf_directory() / "scheduling.bpf.c").is_file()
    assert (loader.bpf_directory() / "include" / "linux" / "kconfig.h").is_file()


def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, tracepoint: str = "sched_switch") -> None:
    """Compiles and attaches a program of the test's own."""
    include = loader.bpf_directory() / "include"
    (tmp_path / "include").symlink_to(include)
    (tmp_path / "test.bpf.c").write_text(source)
    monkeypatch.setattr(loader, "bpf_directory", lambda: tmp_path)
    loader.Programs("test.bpf.c", {}, [(tracepoint, "on_event")])


GOOD = "int on_event(struct bpf_raw_tracepoint_args *ctx) { return 0; }\n"


def test_programs_that_do_not_compile_say_where(
    bpf: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NotAvailableError, match=r"could not compile.*nonsense"):
        programs(tmp_path, monkeypatch, "int on_event(void *ctx) { return nonsense; }\n")
    assert capfd.readouterr().err == ""


def test_programs_that_the_verifier_refuses_say_so(
    bpf: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source = "int on_event(struct bpf_raw_tracepoint_args *ctx) { return *(volatile int *)8; }\n"
    with pytest.raises(NotAvailableError, match="the kernel refuses our program"):
        programs(tmp_path, monkeypatch, source)
    assert capfd.readouterr().err == ""


def test_programs_on_a_missing_tracepoint_name_it(bpf: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotAvailableError, match="no_such_tracepoint"):
        programs(tmp_path, monkeypatch, GOOD, "no_such_tracepoint")


def test_kernel_types_know_the_task() -> None:
    if not os.path.exists("/sys/kernel/btf/vmlinux"):
        pytest.skip("this kernel has no BTF")
    with KernelTypes() as types:
        assert types.offset("task_struct", "pid") is not None
        assert types.offset("task_struct", "no_such_field") is None
        assert types.offset("no_such_struct", "pid") is None
        assert types.argument_count("sched_switch") in {3, 4}
        assert types.argument_count("no_such_tracepoint") is None


@pytest.mark.parametrize("privileged", [True, False])
def test_doctor_says_each_requirement(privileged: bool, threadinfo: Run) -> None:
    text = threadinfo("doctor", privileged=privileged)
    result = threadinfo("doctor", "--format", "json", privileged=privileged)
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert checks.keys() >= {"privilege", "kernel", "BTF", "bcc for Python", "libdw", "lockdown", "PID namespace"}
    for check in checks.values():
        assert check["name"] in text.stdout
        if check["state"] == "missing":
            assert check["effect"] in text.stdout
    if not privileged or os.geteuid():
        assert checks["privilege"]["state"] == "missing"
        assert "sudo" in checks["privilege"]["remedy"]
        assert result.returncode == text.returncode == 3


def test_doctor_in_ci_finds_everything() -> None:
    if not os.environ.get("CI"):
        pytest.skip("only CI's machines are known to have everything")
    assert [check for check in examine() if check.state == "missing"] == []
