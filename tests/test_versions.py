"""What differs between versions of PyTorch, and running from a checkout that is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass

from flashlight.base import checkout
from flashlight.base.versions import joint_pass

ROOT = Path(__file__).parent.parent
UNINSTALLED = """
import sys, importlib.metadata
sys.meta_path = [f for f in sys.meta_path if "Editable" not in f"{f}"]
import flashlight
assert "torch" not in sys.modules
assert importlib.metadata.version("flashlight-attention") == flashlight.__version__ == "0.1.0"
import torch, flashlight.passes.pipeline, flashlight.codegen.triton
q = torch.randn(1, 1, 64, 16)
f = torch.compile(lambda q: (q @ q.mT).softmax(-1) @ q, backend="flashlight", options={"target": "evaluate"})
with torch.no_grad():
    f(q)
assert flashlight.reports()[0].fused == 1
"""


class Named(CustomGraphPass):
    def __init__(self, name: str | None, calls: list[str | None]):
        self.name, self.calls = name, calls

    def __call__(self, graph: fx.Graph) -> None:
        self.calls.append(self.name)

    def uuid(self) -> str | None:
        return self.name


def test_our_pass_runs_before_the_users_whatever_form_they_have() -> None:
    calls: list[str | None] = []
    ours, one, two = (Named(name, calls) for name in ("ours", "one", "two"))
    assert joint_pass(ours, None) is ours
    for theirs in (one, [one], (one, two)):
        calls.clear()
        found = joint_pass(ours, theirs)
        found(fx.Graph())
        assert calls == ["ours", "one", "two"][: len(calls)] and len(calls) > 1
        assert found.uuid() == tuple(calls)


@pytest.mark.parametrize("unknown", [Named(None, []), lambda graph: None])
def test_nothing_is_cached_where_a_pass_cannot_be_told_from_others(unknown: object) -> None:
    assert joint_pass(Named("ours", []), [Named("one", []), unknown]).uuid() is None


def test_a_users_pass_runs_when_compiling() -> None:
    calls: list[str | None] = []
    options = {"joint_custom_pre_pass": Named("theirs", calls), "target": "evaluate"}
    x = torch.randn(1, 1, 64, 16)
    compiled = torch.compile(lambda x: (x @ x.mT).softmax(-1) @ x, backend="flashlight", options=options)
    with torch.no_grad():
        compiled(x)
    assert calls == ["theirs"]


def test_a_checkout_runs_without_an_install(tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{':'.join(sys.path)}", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", UNINSTALLED], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_an_installed_package_is_left_alone(tmp_path: Path) -> None:
    finders = list(sys.meta_path)
    checkout.use(tmp_path / "flashlight")
    assert sys.meta_path == finders
