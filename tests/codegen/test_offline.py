"""Offline compilation of a small hand-written attention kernel for every architecture, with no GPU."""

import subprocess
import sys

import pytest

from flashlight.codegen import apart
from flashlight.codegen.offline import ARCHITECTURES, Compiled, OfflineError, architecture, compile_source

SOURCE = '''
import triton
import triton.language as tl


@triton.jit
def attn0(q_ptr, k_ptr, v_ptr, bias_ptr, keep_ptr, out_ptr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """softmax(q k^T + bias) v for 1024 keys of 64 features."""
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, 64)
    q = tl.load(q_ptr + m[:, None] * 64 + d[None, :])
    top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    out = tl.zeros((BLOCK_M, 64), tl.float32)
    for start in range(0, 1024, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        k = tl.load(k_ptr + n[:, None] * 64 + d[None, :])
        score = tl.dot(q, tl.trans(k)) * 0.18 + tl.load(bias_ptr + n)[None, :]
        score = tl.where(tl.load(keep_ptr + n)[None, :] != 0, score, float("-inf"))
        new_top = tl.maximum(top, tl.max(score, 1))
        weight = tl.exp2(score - new_top[:, None])
        scale = tl.exp2(top - new_top)
        total = total * scale + tl.sum(weight, 1)
        v = tl.load(v_ptr + n[:, None] * 64 + d[None, :])
        out = out * scale[:, None] + tl.dot(weight.to(v.dtype), v)
        top = new_top
    tl.store(out_ptr + m[:, None] * 64 + d[None, :], (out / total[:, None]).to(out_ptr.dtype.element_ty))
'''


def compile_attention(arch: str, dtype: str = "*bf16", block_m: int = 64, block_n: int = 32, **options) -> Compiled:
    signature = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "out_ptr"), dtype) | {"bias_ptr": "*fp32", "keep_ptr": "*i1"}
    return compile_source(SOURCE, "attn0", signature, {"BLOCK_M": block_m, "BLOCK_N": block_n}, arch, **options)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture(arch: str):
    compiled = compile_attention(arch)
    target = ARCHITECTURES[arch]
    assert (compiled.name, compiled.arch) == ("attn0", arch)
    assert set(compiled.asm) | {"sass"} >= set(target.kinds)
    assert 16 < compiled.registers <= target.registers
    assert (compiled.spills, compiled.stack) == (0, 0)
    assert 0 < compiled.shared <= target.shared_memory
    assert compiled.fits
    assert "tt.divisibility = 16" in compiled.asm["ttir"]
    assert "<flashlight attn0 " in compiled.asm["ttir"]


@pytest.mark.parametrize(
    ("arch", "kind", "text"),
    [
        ("sm_80", "sass", "HMMA.16816.F32.BF16"),
        ("sm_90", "ptx", "wgmma.mma_async"),
        ("sm_90", "sass", "HGMMA"),
        ("sm_100", "ptx", "tcgen05.mma"),
        ("gfx942", "amdgcn", "v_mfma_f32"),
    ],
)
def test_matrix_instructions(arch: str, kind: str, text: str):
    assert text in compile_attention(arch).asm[kind]


def test_binaries():
    assert compile_attention("sm_90").asm["cubin"][:4] == b"\x7fELF"
    assert compile_attention("gfx942").asm["hsaco"][:4] == b"\x7fELF"


@pytest.mark.parametrize("arch", ["sm_90", "gfx942"])
def test_spills_are_seen(arch: str):
    compiled = compile_attention(arch, block_m=256 if arch == "gfx942" else 128, num_warps=1)
    assert compiled.spills > 0
    assert compiled.stack > 0


def test_shared_memory_beyond_the_architecture_is_seen():
    compiled = compile_attention("sm_120", "*fp32", block_m=128, block_n=128, num_warps=8, num_stages=4)
    assert compiled.shared > ARCHITECTURES["sm_120"].shared_memory
    assert not compiled.fits


def test_assembly_says_what_there_is():
    with pytest.raises(KeyError, match=r"no 'sass' here, only ttir"):
        compile_attention("gfx942").asm["sass"]


def test_unknown_architecture():
    with pytest.raises(OfflineError, match=r"unknown architecture 'sm_75'; known: sm_80, sm_90"):
        architecture("sm_75")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tl.dot(q, tl.trans(k))", "tl.dot(q, k)", r"attn0 does not compile for sm_90: (.|\n)*tl\.dot\(q, k\)"),
        ("def attn0", "def other", "the source of attn0 does not define it"),
        ("@triton.jit", "", "attn0 is not a function under @triton.jit but of type function"),
        ("import triton\n", "import no_such_module\n", "the source of attn0 cannot be loaded: ModuleNotFoundError"),
        ("for start", "for for", "the source of attn0 cannot be loaded: SyntaxError"),
        ("out_ptr, BLOCK_M", "out_ptr, more_ptr, BLOCK_M", "signature differ in more_ptr"),
    ],
)
def test_errors(old: str, new: str, message: str):
    signature = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "out_ptr"), "*bf16") | {
        "bias_ptr": "*fp32",
        "keep_ptr": "*i1",
    }
    with pytest.raises(OfflineError, match=message):
        compile_source(SOURCE.replace(old, new), "attn0", signature, {"BLOCK_M": 64, "BLOCK_N": 32}, "sm_90")


def test_interpreter_mode_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("triton.knobs.runtime.interpret", True)
    with pytest.raises(OfflineError, match="unset TRITON_INTERPRET"):
        compile_attention("sm_90")


def test_import_is_light():
    code = "import sys, flashlight.codegen.offline\nassert 'torch' not in sys.modules and 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_compiled_apart_is_the_same():
    signature = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "out_ptr"), "*bf16") | {
        "bias_ptr": "*fp32",
        "keep_ptr": "*i1",
    }
    blocks = {"BLOCK_M": 64, "BLOCK_N": 32}
    found = apart.compile_apart(SOURCE, "attn0", signature, blocks, "gfx942")
    assert found == compile_attention("gfx942")
    assert found.asm["amdgcn"] == compile_attention("gfx942").asm["amdgcn"]
    worker = apart._idle[-1].pid
    with pytest.raises(OfflineError, match="does not compile for sm_90"):
        apart.compile_apart(SOURCE.replace("tl.trans(k)", "k"), "attn0", signature, blocks, "sm_90")
    assert apart.compile_apart(SOURCE, "attn0", signature, blocks, "sm_90").fits
    assert apart._idle[-1].pid != worker


def test_a_compiler_that_crashes_is_an_error():
    crash = "import os\n\n\ndef attn0():\n    pass\n\n\nos.abort()\n"
    with pytest.raises(OfflineError, match="attn0 does not compile for sm_90: the compiler crashed"):
        apart.compile_apart(crash, "attn0", {}, {}, "sm_90")
    with pytest.raises(OfflineError, match="not a function under"):
        apart.compile_apart(crash.replace("os.abort()", ""), "attn0", {}, {}, "sm_90")
