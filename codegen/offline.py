"""Compile a generated Triton kernel for a GPU that is not there.

Triton compiles for any target without a driver, and its wheel brings ``ptxas``, ``cuobjdump`` and ``nvdisasm``. So what
a kernel costs on an architecture (registers, spills, shared memory) and what its instructions are can be seen, and
tested, on any machine.
"""

from __future__ import annotations

import hashlib
import linecache
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashlight.codegen.assembler import assembler, assembling

KIB = 1024


class OfflineError(RuntimeError):
    """A kernel could not be compiled offline: which one, for which architecture, and what the compiler said."""


@dataclass(frozen=True)
class Architecture:
    """A GPU architecture as Triton's backends name it.

    ``shared_memory`` is what one block may use, in bytes; ``registers`` the most 32-bit registers one thread can have.
    """

    name: str
    backend: str
    arch: int | str
    warp_size: int
    shared_memory: int
    registers: int

    @property
    def kinds(self) -> tuple[str, ...]:
        """The stages that can be read, from Triton's IR to the machine's instructions."""
        machine = ("ptx", "cubin", "sass") if self.backend == "cuda" else ("amdgcn", "hsaco")
        return ("ttir", "ttgir", "llir", *machine)


ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        Architecture("sm_80", "cuda", 80, 32, 163 * KIB, 255),
        Architecture("sm_90", "cuda", 90, 32, 227 * KIB, 255),
        Architecture("sm_100", "cuda", 100, 32, 227 * KIB, 255),
        Architecture("sm_120", "cuda", 120, 32, 99 * KIB, 255),
        Architecture("gfx942", "hip", "gfx942", 64, 64 * KIB, 512),
        Architecture("gfx950", "hip", "gfx950", 64, 160 * KIB, 512),
    )
}
"""The architectures every kernel must compile for, by name."""

RESEMBLES = {"sm_86": "sm_120", "sm_89": "sm_120", "sm_103": "sm_100", "sm_121": "sm_120"}
"""The known architecture that another is most like in what tilings depend on: shared memory, matrix instructions."""


class Assembly(dict[str, Any]):
    """The stages of one compilation, text or bytes by kind; ``"sass"`` is disassembled when it is first asked for."""

    def __missing__(self, kind: str) -> str:
        if kind != "sass" or "cubin" not in self:
            raise KeyError(f"no {kind!r} here, only {', '.join(self)}")
        self[kind] = _run_on_cubin("nvdisasm", ["--print-code"], self["cubin"])
        return self[kind]


@dataclass(frozen=True)
class Compiled:
    """A kernel compiled for one architecture.

    ``registers`` and ``spills`` (bytes written to scratch memory by register spilling) and ``stack`` (bytes of scratch)
    are per thread, ``shared`` is bytes per block. ``tensor_memory`` counts columns, of 512 where there is any.
    ``assembler`` says which ptxas made it, nothing for AMD.
    """

    name: str
    arch: str
    asm: Assembly = field(repr=False)
    registers: int
    spills: int
    shared: int
    stack: int
    tensor_memory: int = 0
    assembler: str = ""

    @property
    def fits(self) -> bool:
        """Whether a block's shared memory (and tensor memory) is within what the architecture has."""
        return self.shared <= ARCHITECTURES[self.arch].shared_memory and self.tensor_memory <= 512


def architecture(name: str) -> Architecture:
    """The architecture of that name; ``OfflineError`` lists the names there are."""
    if name not in ARCHITECTURES:
        raise OfflineError(f"unknown architecture {name!r}; known: {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def compile_source(
    source: str,
    name: str,
    signature: Mapping[str, str],
    constants: Mapping[str, int],
    arch: str,
    num_warps: int = 4,
    num_stages: int = 2,
) -> Compiled:
    """Compile the one ``@triton.jit`` function ``name`` of a module's source text, without touching any driver.

    ``signature`` gives Triton's type of each argument that is not a ``tl.constexpr``, such as ``"*bf16"`` or ``"i64"``;
    pointers are taken to be aligned to 16 bytes. ``constants`` gives the ``tl.constexpr`` arguments. Raises
    ``OfflineError``.
    """
    target = architecture(arch)
    function = load_function(source, name)
    try:
        compiled = _compile(function, signature, constants, target, num_warps, num_stages)
    except Exception as error:  # whatever the compiler raises: it has a dozen kinds of its own
        raise OfflineError(f"{name} does not compile for {arch}: {_first_lines(error)}") from error
    asm = Assembly({kind: text for kind, text in compiled.asm.items() if kind in target.kinds})
    measure = _nvidia_resources if target.backend == "cuda" else _amd_resources
    registers, spills, stack = measure(asm, target, name)
    columns = getattr(compiled.metadata, "tmem_size", None) or 0
    tool = str(assembler(int(target.arch))) if target.backend == "cuda" else ""
    return Compiled(name, arch, asm, registers, spills, int(compiled.metadata.shared), stack, int(columns), tool)


def load_function(source: str, name: str) -> Any:
    """Execute a generated module and return its Triton function.

    Triton reads a function's text back through ``inspect``: it finds it in ``linecache`` under a name made from the
    content, which also is what debug information shows, the same on every machine. Raises ``OfflineError``.
    """
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    filename = f"<flashlight {name} {digest}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace: dict[str, Any] = {"__name__": f"flashlight_generated_{digest}", "__file__": filename}
    try:
        exec(compile(source, filename, "exec"), namespace)
    except Exception as error:
        raise OfflineError(f"the source of {name} cannot be loaded: {_first_lines(error)}") from error
    if name not in namespace:
        raise OfflineError(f"the source of {name} does not define it")
    from triton.runtime import JITFunction

    if not isinstance(namespace[name], JITFunction):
        kind = type(namespace[name]).__name__
        hint = "; unset TRITON_INTERPRET" if kind == "InterpretedFunction" else ""
        raise OfflineError(f"{name} is not a function under @triton.jit but of type {kind}{hint}")
    return namespace[name]


def _compile(
    function: Any,
    signature: Mapping[str, str],
    constants: Mapping[str, int],
    target: Architecture,
    num_warps: int,
    num_stages: int,
) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    arguments = {**signature, **dict.fromkeys(constants, "constexpr")}
    if missing := set(function.arg_names) ^ set(arguments):
        raise TypeError(f"arguments and signature differ in {', '.join(sorted(missing))}")
    ordered = {argument: arguments[argument] for argument in function.arg_names}
    aligned = {
        (position,): [["tt.divisibility", 16]] for position, kind in enumerate(ordered.values()) if kind.startswith("*")
    }
    with assembling(target.backend, target.arch) as options:
        return triton.compile(
            ASTSource(function, ordered, constexprs=dict(constants), attrs=aligned),
            target=GPUTarget(target.backend, target.arch, target.warp_size),
            options={"num_warps": num_warps, "num_stages": num_stages, **options},
        )


def _nvidia_resources(asm: Assembly, target: Architecture, name: str) -> tuple[int, int, int]:
    """Registers, spilled bytes and stack bytes per thread. Without stack there is no spill; with it ptxas tells."""
    usage = _run_on_cubin("cuobjdump", ["--dump-resource-usage"], asm["cubin"])
    line = re.search(rf"Function {re.escape(name)}:\s*REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", usage)
    if not line:
        raise OfflineError(f"cuobjdump says nothing of {name} on {target.name}: {_shorten(usage)}")
    registers, stack, local = (int(group) for group in line.groups())
    frame = max(stack, local)
    return registers, _nvidia_spills(asm["ptx"], target) if frame else 0, frame


def _nvidia_spills(ptx: str, target: Architecture) -> int:
    """The bytes of spill stores that ``ptxas -v`` reports, assembling with the options Triton uses."""
    suffix = "a" if int(target.arch) >= 90 else ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(ptx)
        options = ["-v", "-lineinfo", "--regAllocOptLevel=2", f"--gpu-name={target.name}{suffix}"]
        tool = assembler(int(target.arch)).path
        log = _run(tool, [*options, str(path), "-o", str(path.with_suffix(".cubin"))]).stderr
    return sum(int(count) for count in re.findall(r"(\d+) bytes spill stores", log))


def _amd_resources(asm: Assembly, target: Architecture, name: str) -> tuple[int, int, int]:
    """Vector registers (accumulation registers included), spilled bytes and scratch bytes per thread."""
    counts = {}
    for key in ("vgpr_count", "vgpr_spill_count", "private_segment_fixed_size"):
        line = re.search(rf"^\s+\.{key}:\s+(\d+)", asm["amdgcn"], re.MULTILINE)
        if not line:
            raise OfflineError(f"the assembly of {name} for {target.name} has no .{key}")
        counts[key] = int(line.group(1))
    return counts["vgpr_count"], 4 * counts["vgpr_spill_count"], counts["private_segment_fixed_size"]


def _run_on_cubin(tool: str, options: list[str], cubin: bytes) -> str:
    """What one of the wheel's NVIDIA tools prints."""
    from triton import knobs

    try:
        command = getattr(knobs.nvidia, tool).path
    except RuntimeError as error:
        raise OfflineError(str(error)) from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        return _run(command, [*options, str(path)]).stdout


def _run(tool: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        output = getattr(error, "stderr", None) or str(error)
        raise OfflineError(f"{Path(tool).name} failed: {_shorten(output)}") from error


def _first_lines(error: BaseException) -> str:
    """What an error says; Triton's compilation errors show the source line, and their innermost cause what is wrong."""
    inner = error
    while inner.__cause__ is not None:
        inner = inner.__cause__
    outer = "" if inner is error else f"{error}\n"
    return _shorten(f"{outer}{type(inner).__name__}: {inner}")


def _shorten(text: str) -> str:
    """At most 16 lines; the last ones of a long source excerpt say what is wrong, so the middle goes."""
    kept = [line for line in text.strip().splitlines() if line.strip()]
    if len(kept) > 16:
        kept = [*kept[:8], "...", *kept[-8:]]
    return "\n".join(kept)
