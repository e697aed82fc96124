"""The texts of every stage of a program."""

from __future__ import annotations

import importlib
import re
import textwrap
from pathlib import Path

from flashlight.codegen import cpp, triton
from flashlight.codegen.tile import tile_program
from flashlight.ir.program import Program
from flashlight.passes.pipeline import compile_program
from tests.harness import compile_only

FOLDER = Path(__file__).parent
ARCHITECTURE = FOLDER.parent.parent / "ARCHITECTURE.md"
NAMES = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem not in ("__init__", "__main__", "stages", "test_golden"))


def stages(name: str, cache_dir: str) -> dict[str, str]:
    """File name -> text, for the one region of tests/golden/<name>.py."""
    program = importlib.import_module(f"tests.golden.{name}")
    compiled = compile_only(program.attention, cache_dir, target="evaluate")
    compiled(*program.inputs())
    *_, plan = compiled.plans  # before it, summaries that other regions may share
    kernels = plan.schedule.kernels
    printed = [triton.print_kernel(k, triton.default_tiling(k, "sm_90"), k.origins) for k in kernels]
    native = [cpp.print_kernel(k, cpp.default_tiling(k, "portable"), "portable") for k in kernels]
    rewritten = [stage for _, stage in compile_program(plan.program)[1] if isinstance(stage, Program)]
    return {
        "1_lowered.txt": f"{plan.program}\n",
        "2_laws.txt": f"{rewritten[-1]}\n",
        "3_schedule.txt": f"{plan.schedule}\n",
        "4_tiled.txt": "\n\n".join(map(str, map(tile_program, kernels))) + "\n",
        "5_triton.py": printed[-1].source,
        "6_native.cpp": native[-1].source,
    }


def written(text: str) -> str:
    """ARCHITECTURE.md with the texts that it shows, each under a line <!-- golden: causal/3_schedule.txt 4: -->.

    Numbers select lines, from 1 on: `4:9`, `4:` or `:9`.
    """

    def shown(found: re.Match[str]) -> str:
        path, first, last = found["path"], found["first"], found["last"]
        lines = (FOLDER / path).read_text().splitlines()[int(first or 1) - 1 : int(last) if last else None]
        return f"{found['mark']}\n```{found['language']}\n" + textwrap.dedent("\n".join(lines)) + "\n```"

    pattern = (
        r"(?P<mark><!-- golden: (?P<path>\S+)(?: (?P<first>\d*):(?P<last>\d*))? -->)\n"
        r"```(?P<language>\w*)\n.*?\n```"
    )
    return re.sub(pattern, shown, text, flags=re.S)
