"""Flashlight: a torch.compile backend that fuses plain-PyTorch attention.

model = torch.compile(model, backend="flashlight")
print(flashlight.explain(fn, *args))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashlight.checkout import use

if TYPE_CHECKING:
    from flashlight.report import Report

__all__ = ["explain", "reports", "reset"]

use(Path(__file__).parent, __path__)


def explain(fn: Callable[..., Any], *args: Any, options: Mapping[str, Any] | None = None, **kwargs: Any) -> Report:
    """Compile a function or module afresh, run it once, and report what was fused in all of its graphs, and what not.

    options: as of torch.compile, see flashlight/options.py: ``explain(fn, q, k, v, options={"target": "evaluate"})``.
    All other arguments are those of the function.  Graph breaks are allowed.  The result of the call is dropped.

    Raises ``TypeError`` where `fn` is no function, :class:`flashlight.options.OptionError` for an illegal option.
    """
    from flashlight.explanation import explain as run

    return run(fn, args, kwargs, options)


def reports() -> list[Report]:
    """The reports of everything compiled in this process, oldest first."""
    from flashlight.report import reports as found

    return found()


def reset() -> None:
    """Forget the reports of this process."""
    from flashlight.report import reset as run

    run()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from flashlight.plan import version

        return version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
