"""Where in the user's code an operation of the graph comes from."""

from __future__ import annotations

import re
from pathlib import PurePath

from torch import fx

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_LIBRARIES = re.compile(r"[/\\](site-packages|dist-packages)[/\\](torch|functorch)[/\\]")


def source_line(node: fx.Node) -> str:
    """'file.py:12', the innermost frame outside PyTorch that made this node; '' when the graph does not say."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    if not frames:
        return ""
    outside = [frame for frame in frames if not _LIBRARIES.search(frame[0])]
    path, line = (outside or frames)[-1]
    return f"{PurePath(path).name}:{line}"
