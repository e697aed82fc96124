"""Options of the backend: ours, and Inductor's, which are passed on.

    torch.compile(model, backend="flashlight", options={"strict": True, "max_autotune": True})

| option      | values                                              | meaning                                          |
|-------------|-----------------------------------------------------|--------------------------------------------------|
| `target`    | auto, or one of TARGETS                             | what runs a fused region                         |
| `strict`    | True, False                                         | raise where something is declined                |
| `warn`      | True, False                                         | one line where nothing was fused                 |
| `sdpa`      | auto, keep, fuse                                    | maskless `F.scaled_dot_product_attention`        |
| `cache_dir` | a path                                              | where compiled regions are kept                  |
| `mode`      | as of torch.compile                                 | which takes no `options` beside its own `mode`   |

Two more bound what planning may cost; a region that takes more is cut into smaller ones, see budget.py:

| option           | values             | meaning                                                                |
|------------------|--------------------|------------------------------------------------------------------------|
| `budget_nodes`   | a positive number  | expressions that attempts to plan regions of a graph may take in vain   |
| `budget_seconds` | a positive number  | and seconds of processor time                                          |
"""

from __future__ import annotations

import difflib
import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin

from flashlight.base.constants import limits
from flashlight.base.errors import FlashlightError

TARGETS = ("auto", "cpp", "evaluate", "reference", "triton", "triton-interpret")

LEGAL: dict[str, tuple[Any, ...]] = {
    "target": TARGETS,
    "strict": (False, True),
    "warn": (True, False),
    "sdpa": ("auto", "keep", "fuse"),
}
"""The values of every option of ours that has a list of them, the default first."""

BUDGETS = ("budget_nodes", "budget_seconds")
NAMES = (*LEGAL, *BUDGETS, "cache_dir", "mode")
MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


class OptionError(FlashlightError, ValueError):
    """An unknown option or an illegal value; the message lists the legal ones."""


@dataclass(frozen=True)
class Options:
    """What the user asked for; `inductor` is what goes on to Inductor."""

    target: str = "auto"
    strict: bool = False
    warn: bool = True
    sdpa: str = "auto"
    budget_nodes: float = limits.NODES
    budget_seconds: float = limits.SECONDS
    cache_dir: str | None = None
    inductor: Mapping[str, Any] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """Ours as text: what a compiled region depends on besides the graph."""
        return json.dumps([self.target, self.strict, self.sdpa])

    @property
    def budgets(self) -> str:
        """Ours as text that decide besides which regions are compiled."""
        return f"{self.budget_nodes}-{self.budget_seconds}"


def parse(options: Mapping[str, Any] | None = None, mode: str | None = None) -> Options:
    """Check options and mode, which may also stand in the options. Raises :class:`OptionError`."""
    ours: dict[str, Any] = {}
    options = dict(options or {})
    inside = options.pop("mode", None)
    if None not in (mode, inside) and mode != inside:
        raise OptionError(f"mode is {mode!r}, and {inside!r} in the options: leave one of them out")
    inductor = _mode_options(mode if inside is None else inside)
    for name, value in options.items():
        if name in NAMES:
            ours[name] = _check(name, value)
        else:
            inductor[_inductor_name(name)] = _check_inductor(name, value)
    return Options(**ours, inductor=inductor)


def debug_level() -> int:
    """``$FLASHLIGHT_DEBUG``: 1 report, 2 and the Programs, 3 and each pass, 4 and the sources; 0 when unset."""
    text = os.environ.get("FLASHLIGHT_DEBUG", "0") or "0"
    if text not in ("0", "1", "2", "3", "4"):
        raise OptionError(f"FLASHLIGHT_DEBUG={text!r}: the legal values are 0, 1, 2, 3, 4")
    return int(text)


def warnings_wanted() -> bool:
    """``$FLASHLIGHT_WARN``: 0 silences warnings of what was not fused; 1 when unset."""
    return _switch("FLASHLIGHT_WARN")


def progress_wanted() -> bool:
    """``$FLASHLIGHT_PROGRESS``: 0 hides what is being compiled; 1 when unset."""
    return _switch("FLASHLIGHT_PROGRESS")


def _switch(name: str) -> bool:
    """An environment variable that is 0 or 1, and 1 when unset."""
    text = os.environ.get(name, "1") or "1"
    if text not in ("0", "1"):
        raise OptionError(f"{name}={text!r}: the legal values are 0, 1")
    return text == "1"


def _check(name: str, value: Any) -> Any:
    if name in BUDGETS:
        if type(value) not in (int, float) or not value > 0:
            raise OptionError(f"option {name!r} cannot be {value!r}: it is a positive number, math.inf for no limit")
        return value
    if name == "cache_dir":
        if value is not None and not isinstance(value, str | os.PathLike):
            raise OptionError(f"option 'cache_dir' is a path or None, not {value!r}")
        return None if value is None else str(Path(value).expanduser().absolute())
    if not any(type(value) is type(legal) and value == legal for legal in LEGAL[name]):
        legal = ", ".join(map(repr, LEGAL[name]))
        raise OptionError(
            f"option {name!r} cannot be {value!r}{_hint(value, LEGAL[name])}; the legal values are {legal}"
        )
    return value


def _hint(word: Any, known: Any) -> str:
    """' (did you mean ...?)' where a known word is close."""
    close = difflib.get_close_matches(str(word), [k for k in known if isinstance(k, str)], 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _mode_options(mode: str | None) -> dict[str, Any]:
    if mode is None:
        return {}
    if mode not in MODES:
        legal = ", ".join(map(repr, MODES))
        raise OptionError(f"mode cannot be {mode!r}{_hint(mode, MODES)}; the legal modes are {legal}")
    from torch._inductor import list_mode_options

    return dict(list_mode_options(mode))


@functools.cache
def _inductor_types() -> dict[str, Any]:
    from torch._inductor import config

    return {name: config.get_type(name) for name in config.get_config_copy()}  # type: ignore[attr-defined]


def _inductor_name(name: str) -> str:
    known = _inductor_types()
    spelled = name.replace("-", "_")
    if spelled not in known:
        raise OptionError(
            f"unknown option {name!r}{_hint(name, (*NAMES, *known))}; "
            f"the legal options are {', '.join(map(repr, NAMES))} "
            "and those of Inductor (torch._inductor.list_options())"
        )
    return spelled


def _check_inductor(name: str, value: Any) -> Any:
    """As torch.compile does for the inductor backend: plain types only, generics cannot be checked."""
    wanted = _inductor_types()[_inductor_name(name)]
    types = (wanted,) if get_origin(wanted) is None else get_args(wanted)
    checkable = all(isinstance(t, type) for t in types) and get_origin(wanted) not in (list, dict, tuple, set)
    if checkable and not isinstance(value, types):
        names = " or ".join(t.__name__ for t in types)
        raise OptionError(f"option {name!r} of Inductor is of type {names}, not {type(value).__name__}")
    return value
