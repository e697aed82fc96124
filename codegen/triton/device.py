"""The architecture of a device, and making a device the current one."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import torch

from flashlight.codegen.offline import ARCHITECTURES, RESEMBLES


def exact_architecture(device: torch.device) -> str:
    """The architecture's own name, such as sm_89; "" where there is no accelerator."""
    if device.type != "cuda":
        return ""
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def architecture(device: torch.device) -> str:
    """The known architecture that a device has or resembles; sm_90 where there is no accelerator."""
    exact = exact_architecture(device)
    if not exact or exact in ARCHITECTURES:
        return exact or "sm_90"
    if exact.startswith("gfx"):
        return "gfx942"
    older = [n for n in ("sm_80", "sm_90", "sm_100", "sm_120") if int(n[3:]) <= int(exact[3:])]
    return RESEMBLES.get(exact) or (older or ["sm_120"])[-1]


def on_device(tensors: Mapping[str, torch.Tensor]) -> contextlib.AbstractContextManager[object]:
    """Inside, the device of the tensors is the current one: Triton compiles for the current one, and launches there."""
    device = device_of(tensors)
    if device.type != "cuda" or device.index in (None, torch.cuda.current_device()):
        return contextlib.nullcontext()
    return torch.cuda.device(device)


def device_of(tensors: Mapping[str, torch.Tensor]) -> torch.device:
    """Where the first of the tensors is."""
    return next((t.device for t in tensors.values()), torch.device("cpu"))
