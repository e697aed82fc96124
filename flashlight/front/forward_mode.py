"""Forward-mode AD around compiled code, which has no tangents to give: an error instead of none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad

from flashlight.base.errors import FlashlightError
from flashlight.base.versions import in_dual_level

_REASON = (
    "an input has a tangent of forward-mode AD, and compiled code gives none; compile the derivative instead, "
    "torch.compile(lambda *args: torch.func.jvp(fn, args, tangents), backend='flashlight'), or call the function itself"
)


def refusing_tangents(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """The compiled graph; raises :class:`FlashlightError` where an input has a tangent."""

    def run(*args: Any) -> Any:
        if in_dual_level() and any(isinstance(x, torch.Tensor) and _has_tangent(x) for x in args):
            raise FlashlightError(_REASON)
        return compiled(*args)

    # callers look for attributes, as aot_compile does for `serialize`; Dynamo's marks belong to what they are on
    known = getattr(compiled, "__dict__", {})
    run.__dict__.update((name, value) for name, value in known.items() if not name.startswith("_torchdynamo"))
    return run


def _has_tangent(x: torch.Tensor) -> bool:
    return forward_ad.unpack_dual(x).tangent is not None
