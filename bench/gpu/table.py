"""What the events say: a table of times with both floors, the smoke programs, the Must-fuse list, and every failure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tabulate import tabulate

from bench.gpu import events

CONTENDERS = ("eager", "inductor", "flex", "sdpa", "flashlight")


def write(out: Path) -> str:
    """`table.txt` and `results.json` in the folder; returns the text."""
    found = events.read(out)
    text = "\n\n".join(part for part in (_head(found), _smoke(found), _cells(found), _list(found)) if part) + "\n"
    (out / "table.txt").write_text(text + "\n" + _failures(found))
    (out / "results.json").write_text(json.dumps({"events": found}, indent=1))
    return text


def _ends(found: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """The last outcome of each item of a kind, by the rest of its name."""
    ends = (e for e in found if e["kind"] in ("end", "died") and e["item"].split(":")[0] == kind)
    return {e["item"].partition(":")[2]: e for e in ends}


def _head(found: list[dict[str, Any]]) -> str:
    facts = _ends(found, "device").get("", {})
    rates = _ends(found, "rates").get("", {})
    lines = [f"{k}: {v}" for k, v in facts.items() if k not in ("time", "kind", "item", "trace")]
    if "matmul" in rates:
        matmul, copy = rates["matmul"] / 1e12, rates["copy"] / 1e12
        lines.append(f"measured: bfloat16 torch.matmul {matmul:.0f} TFLOP/s, copy {copy:.2f} TB/s")
    return "\n".join(lines)


def _smoke(found: list[dict[str, Any]]) -> str:
    rows = []
    for name, e in {**_ends(found, "triton"), **_ends(found, "smoke")}.items():
        name = name or "triton itself"
        if error := e.get("error"):
            rows.append((name, "FAILED", error.splitlines()[0][:100], "", ""))
        else:
            ratio = f"{e['ratio']:.2f}" if "ratio" in e else ""
            rows.append((name, "ok", ", ".join(e.get("kernels", [])), ratio, f"{e.get('first_call_seconds', 0):.1f}"))
    head = ("program", "", "kernels", "error / eager's", "first call s")
    return tabulate(rows, headers=head) if rows else ""


def _cells(found: list[dict[str, Any]]) -> str:
    """Milliseconds, a row a cell, with how our kernels compare and the two floors."""
    rates = _ends(found, "rates").get("", {})
    facts = {e["cell"]: e for e in found if e["kind"] == "facts"}
    figures: dict[str, dict[str, dict[str, Any]]] = {}
    for e in found:
        if e["kind"] == "contender" or (e["kind"] == "died" and "contender" in e):
            figures.setdefault(e["cell"], {})[e["contender"]] = e
    rows = []
    for cell, by in figures.items():
        ours, fact = by.get("flashlight", {}).get("milliseconds"), facts.get(cell, {})
        floors = _floors(fact, rates)
        times = [_time(by.get(c)) for c in CONTENDERS]
        ratios = [_ratio(by.get(c, {}).get("milliseconds"), ours) for c in CONTENDERS[:-1]]
        speed = f"{fact['flops'] / ours / 1e9:.0f}" if ours and fact.get("flops") else ""
        reach = f"{max(floors) / ours:.0%}" if ours and floors else ""
        rows.append(
            (cell, *times, *ratios, speed, *[f"{f:.3f}" for f in floors or ()], *[""] * (2 - len(floors)), reach)
        )
    ratios = [f"{c} / ours" for c in CONTENDERS[:-1]]
    head = ("cell", *CONTENDERS, *ratios, "TFLOP/s", "flops floor", "bytes floor", "of floor")
    title = "milliseconds, B=4 H=16 S=4096 bfloat16 forward, and backward where trained, unless told otherwise"
    return f"{title}\n{tabulate(rows, head)}" if rows else ""


def _floors(fact: dict[str, Any], rates: dict[str, Any]) -> list[float]:
    """Milliseconds that the operations, and the bytes, take at the measured rates."""
    if "flops" not in fact or "matmul" not in rates:
        return []
    return [fact["flops"] / rates["matmul"] * 1e3, fact["bytes"] / rates["copy"] * 1e3]


def _time(e: dict[str, Any] | None) -> str:
    if e is None:
        return ""
    if "error" in e:
        return "FAILED"
    if e.get("inexpressible"):
        return "-"
    return f"{e['milliseconds']:.3f}{'' if e['same'] else ' WRONG'}{'' if e.get('fused', 1) else ' not fused'}"


def _ratio(theirs: float | None, ours: float | None) -> str:
    return f"{theirs / ours:.2f}" if theirs and ours else ""


def _list(found: list[dict[str, Any]]) -> str:
    tests = [e for e in found if e["kind"] == "test"]
    if not tests:
        return ""
    failed = [e for e in tests if e["outcome"] == "failed"]
    ratios = [e["properties"]["ratio"] for e in tests if e.get("properties", {}).get("ratio") is not None]
    worst = f"; largest error {max(ratios):.2f} times eager's" if ratios else ""
    lines = [f"on the device: {len(tests) - len(failed)} of {len(tests)} tests passed{worst}"]
    lines += [f"  {e['test']}: {_last(e['error'])}" for e in failed]
    return "\n".join(lines)


def _last(text: str) -> str:
    """The line of a failure that says what is wrong."""
    lines = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    return (lines or [*text.strip().splitlines(), ""])[0][:200]


def _failures(found: list[dict[str, Any]]) -> str:
    """Every failure in full."""
    texts = []
    for e in found:
        if "error" in e and e["kind"] != "test":
            name = e.get("item") or f"{e.get('cell')} {e.get('contender')}"
            texts.append(f"==== {name}\n{e.get('trace') or e['error']}")
        elif e["kind"] == "test" and e["outcome"] == "failed":
            texts.append(f"==== {e['test']}\n{e['error']}")
    return "\n\n".join(texts)
