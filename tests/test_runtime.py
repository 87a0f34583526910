"""Device, threads and precision."""

import contextlib
import gc
import os
import re
import shutil
import subprocess

import pytest
import torch

from lib import runtime


@pytest.fixture(autouse=True)
def settings_restored():
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


@pytest.mark.parametrize(("asked", "expected"), [
    ("1", 1), ("100000", None), ("", None), ("0", None), ("two", None), ("2,1", None)])
def test_cores_are_those_allowed(asked, expected, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else \
        os.cpu_count()
    assert runtime.cores() == (expected or available)


def test_one_thread_for_one_sentence(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert runtime.prepare(1) == torch.get_num_threads() == 1
    assert runtime.prepare() == torch.get_num_threads() == runtime.cores()
    assert runtime.prepare(32) == runtime.cores()


def test_the_fast_route_stays_accurate():
    runtime.prepare()
    a, b = torch.randn(64, 256), torch.randn(256, 64)
    exact = a.double() @ b.double()
    error = ((a @ b) - exact).norm() / exact.norm()
    assert error < (1e-6 if not torch.cuda.is_available() else 1e-3)


@pytest.mark.parametrize(("machine", "amx", "expected"), [
    ("x86_64", False, "medium"), ("x86_64", True, "highest"), ("aarch64", False, "highest")])
def test_products_are_not_rounded_where_a_processor_would(machine, amx, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(runtime.platform, "machine", lambda: machine)
    runtime.prepare()
    assert torch.get_float32_matmul_precision() == expected


def test_fast_math_is_no_choice_of_the_environment(monkeypatch):
    monkeypatch.setenv("DNNL_DEFAULT_FPMATH_MODE", "BF16")
    monkeypatch.delenv("ONEDNN_DEFAULT_FPMATH_MODE", raising=False)
    runtime.prepare()
    assert os.environ["DNNL_DEFAULT_FPMATH_MODE"] == "STRICT"
    assert "ONEDNN_DEFAULT_FPMATH_MODE" not in os.environ


def test_precision_by_name():
    cpu = torch.device("cpu")
    a = torch.randn(4, 4)
    assert isinstance(runtime.autocast("fp32", cpu), contextlib.nullcontext)
    with runtime.autocast("bf16", cpu):
        assert (a @ a).dtype == torch.bfloat16
    with runtime.autocast("auto", cpu):
        fast = runtime.has_fast_bf16(cpu)
        assert (a @ a).dtype == (torch.bfloat16 if fast else torch.float32)
    assert (a @ a).dtype == torch.float32


def test_auto_without_the_hardware_is_fp32(monkeypatch):
    monkeypatch.setattr(runtime, "has_fast_bf16", lambda where: False)
    assert isinstance(runtime.autocast("auto", torch.device("cpu")), contextlib.nullcontext)


def test_seeds_are_of_all_their_numbers():
    drawn = []
    for numbers in ((1, 2, 3), (1, 2, 3), (1, 3, 2), (1, 2), (1, 2, 4)):
        runtime.seed(*numbers)
        drawn.append(float(torch.rand(())))
    assert drawn[0] == drawn[1] and len(set(drawn)) == 4


def test_versions_and_commit_are_text():
    assert runtime.versions()["torch"] == torch.__version__
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", runtime.commit())


def test_without_git_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runtime.commit() == "unknown"


@pytest.mark.skipif(shutil.which("git") is None, reason="git isn't installed")
def test_an_unpacked_archive_has_not_the_commit_of_the_repository_around_it(tmp_path, monkeypatch):
    as_someone = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run([*as_someone, *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(runtime, "ROOT", tmp_path.resolve())
    assert re.fullmatch("[0-9a-f]{40}", runtime.commit())
    (tmp_path / "archive").mkdir()
    monkeypatch.setattr(runtime, "ROOT", tmp_path.resolve() / "archive")
    assert runtime.commit() == "unknown"


# What fits on the device ---------------------------------------------------------------------

CARD = torch.device("cuda", 0)


@pytest.mark.parametrize(("gib", "runs", "expected"), [
    (80, 1, 2**18), (8, 1, 2**16), (8, 3, 2**14), (0.001, 1, 1024)])
def test_positions_fill_half_of_the_free_memory(gib, runs, expected, monkeypatch):
    """Cached blocks count as free; the memory a position takes is 64 KiB."""
    free = int(gib * 2**30)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda where: (free // 2, 2**40))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda where: free)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda where: free - free // 2)
    monkeypatch.setenv("DISCREPANCY_SIDE_BY_SIDE", str(runs))
    assert runtime.device_positions(CARD, 1024) == expected
    assert runtime.device_positions(torch.device("cpu"), 1024) == 1024


def test_rows_that_need_too_much_memory_are_halved():
    sizes = []

    def function(rows):
        sizes.append(len(rows))
        if len(rows) > 3:
            raise torch.OutOfMemoryError
        return sum(rows)

    assert runtime.halving(function, list(range(10))) == [1, 9, 11, 24]
    assert sizes == [10, 5, 2, 3, 5, 2, 3]


@pytest.mark.parametrize("text", ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED",
                                  "behind another error"])
def test_a_library_without_memory_is_one_more_way_to_say_so(text):
    def function(rows):
        if len(rows) == 1:
            return rows
        try:
            raise RuntimeError("out of memory" if "behind" in text else text)
        except RuntimeError:
            if "behind" in text:  # as at the end of a capture that failed for it
                raise RuntimeError("the capture was invalidated")  # noqa: B904
            raise

    assert runtime.halving(function, [1, 2]) == [[1], [2]]


def test_other_errors_are_not_mended_by_halving():
    def function(rows):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        runtime.halving(function, [1, 2])


@pytest.mark.parametrize("on", [True, False])
def test_no_garbage_is_collected_while_a_graph_is_captured(on):
    before = gc.isenabled()
    (gc.enable if on else gc.disable)()
    try:
        with pytest.raises(ZeroDivisionError), runtime.no_collection():
            assert not gc.isenabled()
            raise ZeroDivisionError
        assert gc.isenabled() is on
    finally:
        (gc.enable if before else gc.disable)()


def test_a_row_that_needs_too_much_memory_is_an_error():
    def function(rows):
        raise torch.OutOfMemoryError("2 GiB")

    with pytest.raises(torch.OutOfMemoryError, match="2 GiB"):
        runtime.halving(function, [1, 2])
