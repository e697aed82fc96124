"""What reported kernels cost on GPUs that are not there, each at the tiling that compiling shows to suit it."""

from __future__ import annotations

from collections.abc import Iterable

from flashlight.base.errors import FlashlightError
from flashlight.codegen.offline import Compiled, OfflineError, compile_source
from flashlight.ir.kernel import Kernel
from flashlight.report.records import KernelReport, Report
from flashlight.runtime import op as runtime


def scheduled(reports: Iterable[Report]) -> dict[str, Kernel]:
    """The kernels of fused regions by digest; regions whose plan is gone are left out."""
    by_digest: dict[str, Kernel] = {}
    for key in dict.fromkeys(region.key for report in reports for region in report.regions if region.key):
        try:
            by_digest |= {kernel.digest: kernel for kernel in runtime.find_plan(key).schedule.kernels}
        except FlashlightError:
            continue
    return by_digest


def compiled_for(report: KernelReport, arch: str, kernel: Kernel | None) -> tuple[Compiled, list[str]]:
    """A reported kernel compiled for an architecture, and the tilings tried for it, the one taken first.

    Without its schedule it is compiled as reported.  Raises OfflineError.
    """
    if report.triton is None:
        raise OfflineError(f"{report.name} has no Triton form to compile for {arch}, only {report.language or 'none'}")
    if kernel is None:
        return compile_source(**report.triton, arch=arch), [""]
    from flashlight.codegen.triton.trials import choose

    choice = choose(kernel, arch, kernel.origins)
    others = [str(a) for a in choice.attempts if a is not choice.best]
    return choice.compiled, [str(choice.tiling), *others]
