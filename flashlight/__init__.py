"""Flashlight: a torch.compile backend that fuses plain-PyTorch attention.

model = torch.compile(model, backend="flashlight")
print(flashlight.explain(fn, *args))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashlight.base.checkout import use

if TYPE_CHECKING:
    from flashlight.report.records import Report

__all__ = ["explain", "reports", "reset"]

use(Path(__file__).parent)


def explain(fn: Callable[..., Any], *args: Any, options: Mapping[str, Any] | None = None, **kwargs: Any) -> Report:
    """Compile a function or module afresh, run it once, and report what was fused in all of its graphs, and what not.

    options: as of torch.compile, see flashlight.base.options: ``explain(fn, q, k, v, options={"target": "cpp"})``.
    All other arguments are those of the function.  Graph breaks are allowed.  The result of the call is dropped.

    Raises ``TypeError`` where `fn` is no function, :class:`flashlight.base.options.OptionError` for an illegal option.
    """
    from flashlight import explanation

    return explanation.explain(fn, args, kwargs, options)


def reports() -> list[Report]:
    """The reports of everything compiled in this process, oldest first."""
    from flashlight.report import records

    return records.reports()


def reset() -> None:
    """Forget the reports of this process."""
    from flashlight.report import records

    records.reset()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from flashlight.runtime.plan import version

        return version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
