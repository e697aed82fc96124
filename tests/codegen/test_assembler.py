"""Which ptxas assembles for Hopper: offline, apart and at launches, and that kernels of others keep theirs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from triton import knobs

from flashlight.base.errors import FlashlightWarning
from flashlight.codegen import assembler as room
from flashlight.codegen.apart import compile_apart
from flashlight.codegen.assembler import Assembler, assembler, assembling
from flashlight.codegen.offline import compile_source, load_function
from flashlight.codegen.triton import launch, print_kernel
from flashlight.codegen.triton.blocks import Tiling
from flashlight.codegen.triton.printer import TritonKernel
from flashlight.ir.evaluate import new_output
from tests.codegen import handmade
from tests.codegen.fake_driver import fake_driver

OLD = Assembler("/old/ptxas", "12.8")
NEW = Assembler("/new/ptxas", "13.1", {"ptx_version": 91})
THEIRS = """
import triton
import triton.language as tl


@triton.jit
def theirs(x_ptr):
    tl.store(x_ptr + tl.arange(0, 16), tl.arange(0, 16).to(tl.float32))
"""
needs_newer = pytest.mark.skipif(
    tuple(map(int, knobs.nvidia.ptxas.version.split("."))) >= room.SOUND, reason="Triton's own ptxas is sound"
)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """What was found out about the driver is asked again, here and afterwards."""
    room._obstacle.cache_clear()
    yield
    room._obstacle.cache_clear()


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Triton whose ptxas is OLD, and NEW for Blackwell; no driver."""
    monkeypatch.setattr(room, "_triton", lambda arch: OLD)
    monkeypatch.setattr(room, "_blackwell", lambda: NEW)
    monkeypatch.setattr(room, "driver_version", lambda: None)
    monkeypatch.delenv("TRITON_PTXAS_PATH", raising=False)
    return


@pytest.mark.parametrize(
    ("driver", "reason"),
    [(None, ""), ((13, 0), ""), ((14, 2), ""), ((12, 9), "13.1 needs a driver for CUDA 13"),
     ((), "13.1 needs a driver for CUDA 13")],
)  # fmt: skip
def test_the_newer_one_is_taken_where_the_driver_loads_what_it_makes(
    wheel, driver: tuple[int, ...] | None, reason: str, monkeypatch
) -> None:
    monkeypatch.setattr(room, "driver_version", lambda: driver)
    found = assembler(90)
    assert found.reason == reason and (found == NEW) == (not reason)
    assert bool(found.options) == (not reason)
    assert str(found) == ("ptxas 13.1" if not reason else f"ptxas 12.8 ({reason})")


def test_other_architectures_keep_tritons_own(wheel) -> None:
    assert assembler(80) == assembler(100) == OLD
    for backend, arch in (("cuda", 80), ("cuda", 100), ("hip", "gfx942")):
        with assembling(backend, arch) as options:
            assert options == room.ROUNDED


def test_a_sound_one_stays(wheel, monkeypatch) -> None:
    for version in ("12.9", "13.0"):
        monkeypatch.setattr(room, "_triton", lambda arch, version=version: Assembler("/own", version))
        assert assembler(90) == Assembler("/own", version)


def test_what_the_user_chose_stays(wheel, monkeypatch) -> None:
    with knobs.nvidia.scope():
        knobs.nvidia.ptxas = "/their/ptxas"
        assert assembler(90).reason == "as chosen by the user"
    assert assembler(90) == NEW
    monkeypatch.setenv("TRITON_PTXAS_PATH", "/their/ptxas")
    assert assembler(90).path == OLD.path
    with assembling("cuda", 90) as options:
        assert options == room.ROUNDED and os.environ["TRITON_PTXAS_PATH"] == "/their/ptxas"


def test_where_triton_has_no_newer_one_or_cannot_be_told_its_own_is_used(wheel, monkeypatch) -> None:
    monkeypatch.setattr(room, "_blackwell", lambda: Assembler("/other", "12.8"))
    assert assembler(90).path == OLD.path and "no newer one than 12.8" in assembler(90).reason
    room._obstacle.cache_clear()

    def missing() -> Assembler:
        raise AttributeError("ptxas_blackwell")

    monkeypatch.setattr(room, "_blackwell", missing)
    assert assembler(90).path == OLD.path and "ptxas_blackwell" in assembler(90).reason


@needs_newer
def test_the_environment_and_the_setting_of_others_are_as_before(monkeypatch) -> None:
    monkeypatch.setattr(room, "driver_version", lambda: None)
    before = knobs.nvidia.ptxas.path
    with assembling("cuda", 90) as options:
        assert options and knobs.nvidia.ptxas.path == knobs.nvidia.ptxas_blackwell.path
        assert "TRITON_PTXAS_PATH" not in os.environ
        seen: list[Assembler] = []
        other = threading.Thread(target=lambda: seen.append(assembler(90)))
        other.start()
        other.join(0.05)
        assert not seen, "another thread must not take our setting for the user's"
    other.join()
    assert seen[0].options and knobs.nvidia.ptxas.path == before and knobs.propagate_env
    with pytest.raises(KeyError), assembling("cuda", 90):
        raise KeyError
    assert knobs.nvidia.ptxas.path == before


def versions(cache: Path, name: str) -> set[str]:
    """PTX versions of what Triton compiled of a kernel."""
    texts = [path.read_text() for path in cache.rglob(f"{name}.ptx")]
    return {line.split()[1] for text in texts for line in text.splitlines() if line.startswith(".version")}


def launchable() -> tuple[TritonKernel, Callable[[], None]]:
    """A kernel, and its launch."""
    kernel = handmade.softmax(b=1, h=1, m=128, n=128, d=64, dtype=torch.bfloat16).kernel
    blocks = dict.fromkeys((*kernel.tile, *(s.axis for s in kernel.sweeps)), 64)
    tk = print_kernel(kernel, Tiling(blocks, 4, 1))
    cpu = torch.device("cpu")
    tensors = {t.name: new_output(t, cpu) for t in kernel.inputs}
    outputs = {t.name: new_output(t, cpu) for t in kernel.outputs}
    return tk, lambda: launch(tk, kernel, tensors, outputs)


@needs_newer
@pytest.mark.parametrize("ours_first", [True, False])
def test_a_launch_compiles_ours_with_the_newer_and_theirs_with_the_old(ours_first, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(room, "driver_version", lambda: (13, 1))
    monkeypatch.setattr(knobs.cache, "dir", str(tmp_path))
    tk, ours = launchable()

    def theirs() -> None:
        load_function(THEIRS, "theirs")[(1,)](torch.empty(16))

    with fake_driver() as driver:
        for step in (ours, theirs, ours) if ours_first else (theirs, ours, theirs):
            step()
    assert len(driver.launches) == 3
    assert versions(tmp_path, tk.name) == {"9.1" if assembler(90).version == "13.1" else "8.8"}
    assert versions(tmp_path, "theirs") == {"8.7"}
    compiled = len(list(tmp_path.rglob(f"{tk.name}.ptx")))
    apart = compile_apart(tk.source, tk.name, tk.signature, tk.constants, "sm_90", tk.num_warps, tk.num_stages)
    assert apart.assembler == str(assembler(90)) and compiled == 1


def test_products_are_rounded_before_they_are_added_to_something() -> None:
    """As where the maximum is found: exp(s * scale - max) must not see the rounding error of the scores."""
    x = handmade.softmax(b=1, h=1, m=128, n=128, d=64, dtype=torch.bfloat16).kernel
    tk = print_kernel(x, Tiling(dict.fromkeys((*x.tile, *(s.axis for s in x.sweeps)), 64), 4, 1))
    made = compile_source(tk.source, tk.name, tk.signature, tk.constants, "sm_90", tk.num_warps, tk.num_stages)
    assert "fma.rn.f32" not in made.asm["ptx"] and "wgmma" in made.asm["ptx"]


@needs_newer
def test_a_driver_that_is_too_old_is_said_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(room, "driver_version", lambda: (11, 8))
    monkeypatch.setattr(knobs.cache, "dir", str(tmp_path))
    tk, ours = launchable()
    with fake_driver(), pytest.warns(FlashlightWarning) as said:
        ours()
        ours()
    assert len(said) == 1 and "needs a driver for CUDA" in str(said[0].message)
    assert "TRITON_PTXAS_PATH" in str(said[0].message) and versions(tmp_path, tk.name) == {"8.7"}
    with knobs.nvidia.scope():
        knobs.nvidia.ptxas = knobs.nvidia.ptxas.path
        assert room.doubt("cuda", 90) == room.doubt("cuda", 80) == room.doubt("hip", "gfx942") == ""


@needs_newer
def test_what_is_compiled_ahead_is_found_at_the_launch(tmp_path, monkeypatch) -> None:
    """Worker and launch take the same one: the launch compiles nothing."""
    monkeypatch.setattr(room, "driver_version", lambda: None)
    monkeypatch.setattr(knobs.cache, "dir", str(tmp_path))
    compile_source(THEIRS, "theirs", {"x_ptr": "*fp32"}, {}, "sm_90")
    (made,) = tmp_path.rglob("theirs.ptx")
    before = made.stat().st_mtime_ns
    with fake_driver(), assembling("cuda", 90) as options:
        found = load_function(THEIRS, "theirs")[(1,)](torch.empty(16), num_stages=2, **options)
    assert list(tmp_path.rglob("theirs.ptx")) == [made] and made.stat().st_mtime_ns == before
    assert found.metadata.ptx_version == options["ptx_version"]
