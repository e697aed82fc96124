"""Reports: counts, text, JSON and the process-wide registry."""

import copy
import json
import os
import pickle
import re
import subprocess
import sys
import threading

import pytest
import torch

import flashlight
from flashlight.base.deferred import Later
from flashlight.codegen.triton import print_kernel
from flashlight.front import planning
from flashlight.front.compilation import report_from_document, report_to_document
from flashlight.report import records as registry
from flashlight.report.records import KernelReport, RegionReport, Report, ScoreSized
from flashlight.runtime import op as runtime
from tests.harness import compile_only


@pytest.fixture(autouse=True)
def clean():
    registry.reset()
    yield
    registry.reset()


def kernel(**changes) -> KernelReport:
    fields = {
        "name": "attn0",
        "language": "triton",
        "source": "def attn0(): ...",
        "program": "store out",
        "kernel": "grid m",
        "grid": (16, "s0", 2),
        "tiles": {"m": 128, "n": 64},
        "sweeps": 1,
        "flops": 2**40,
        "bytes_read": 1024,
        "bytes_written": 512,
        "tiles_total": 64,
        "tiles_visited": 36,
        "triton": {"source": "x", "name": "attn0", "signature": {"q": "*fp32"}, "constants": {"M": 64}, "num_warps": 4},
    }
    return KernelReport(**{**fields, **changes})


def sample() -> Report:
    fused = RegionReport(
        True, None, "model.py:12", "attention0", [kernel()], None, [("hoist", "text"), ("stream", "x")], "key"
    )
    declined = RegionReport(False, "top-k along the key axis", "model.py:40", "attention1", fix="threshold instead")
    return Report([fused, declined], [("model.py:77", "softmax over 10 classes")])


def test_counts():
    report = sample()
    assert (report.fused, report.declined) == (1, 1)
    assert (Report().fused, Report().declined) == (0, 0)


@pytest.mark.parametrize("value", [sample(), sample().regions[0], kernel(), Report(), kernel(tiles_visited=None)])
def test_json_round_trip(value):
    again = type(value).from_json(value.to_json())
    assert again == value
    json.loads(value.to_json())


@pytest.mark.parametrize(
    "text", ["[]", "3", '{"regions": [{"colour": 1}]}', "{", '{"regions": 7}', '{"untouched": [[1]]}']
)
def test_json_of_something_else(text):
    with pytest.raises(ValueError):
        Report.from_json(text)


def test_text():
    text = str(sample())
    assert text.startswith("Flashlight: 1 fused, 1 declined, 1 untouched")
    fused, declined = (
        next(line for line in text.splitlines() if line.startswith(name)) for name in ("attention0", "attention1")
    )
    assert fused.split() == ["attention0", "model.py:12", "fused", "1", "1", "36", "of", "64"]
    assert declined.split() == ["attention1", "model.py:40", "declined"]
    assert "reason: top-k along the key axis" in text
    assert "fix: threshold instead" in text
    assert "model.py:77  softmax over 10 classes" in text


def test_what_layers_have_in_common_is_said_once():
    layers = [
        RegionReport(True, source="a.py:1", name=f"attention{i}", kernels=[kernel(finding="costly")]) for i in range(12)
    ]
    lost = [RegionReport(False, "top-k", f"a.py:{40 + i}", f"attention{12 + 2 * i}", fix="sort") for i in range(6)]
    text = str(Report([*layers, *lost]))
    assert len([line for line in text.splitlines() if "a.py:1 " in line]) == 1
    assert "attention0-11  a.py:1" in text
    assert text.count("  attention0-11: costly") == text.count("costly") == 1
    lines = (
        "a.py:40, a.py:41, a.py:42, a.py:43 and 2 more: attention12, attention14, attention16, attention18 and 2 more"
    )
    assert f"{lines} were declined\n  reason: top-k\n  fix: sort" in text
    assert text.count("reason: top-k") == 1


def test_text_of_unknown_tiles_and_of_nothing():
    region = RegionReport(True, source="a.py:1", name="r", kernels=[kernel(tiles_visited=None)])
    assert " of " not in str(Report([region]))
    assert str(Report()).startswith("Flashlight: nothing to fuse: no result that combines two tensors")
    stored = ScoreSized("bmm", (4, 4), "float32", 64, "a.py:1", "a plain chain of products")
    assert "nothing to fuse" not in str(Report(score_sized=[stored]))


def test_tiles_are_summed_over_kernels():
    kernels = [kernel(tiles_total=0, tiles_visited=0), kernel(tiles_total=128, tiles_visited=72)]
    assert "72 of 128" in str(Report([RegionReport(True, source="a.py:1", name="r", kernels=kernels)]))


def attention(q, k, v, length):
    """[B,H,N,D]; keys from length [1] on are hidden."""
    scores = q @ k.mT / 8
    return scores.masked_fill(torch.arange(k.shape[2]) >= length, -torch.inf).softmax(-1) @ v


@pytest.mark.parametrize(("length", "visited"), [(20, 1), (130, 3), (256, 4)])
def test_explain_counts_the_tiles_of_its_run(length, visited):
    with torch.no_grad():
        report = flashlight.explain(attention, *torch.randn(3, 1, 2, 256, 64), torch.tensor([length]))
    counts = [(k.tiles_visited, k.tiles_total) for k in report.regions[0].kernels]
    (computed, total) = counts[-1]
    assert computed is not None and computed * 4 == total * visited
    assert set(counts[:-1]) <= {(0, 0)}, "what the tests of blocks need has no scores"
    assert f"{computed} of {total}" in str(report)
    assert Report.from_json(report.to_json()) == report


@pytest.mark.parametrize(
    ("heads", "said"), [(False, "costs an estimated"), (True, "every block is computed: finding out")]
)
def test_what_finding_blocks_costs_is_said(heads, said):
    def masked(q, k, v, mask):
        return (q @ k.mT / 8).masked_fill(~mask, -torch.inf).softmax(-1) @ v

    mask = torch.ones(256, 256, dtype=torch.bool).tril()
    with torch.no_grad():
        report = flashlight.explain(masked, *torch.randn(3, 1, 16, 256, 64), mask.repeat(16, 1, 1) if heads else mask)
    kernel = report.regions[0].kernels[-1]
    assert said in kernel.finding and kernel.finding in str(report)
    assert ("every block: finding out" in kernel.kernel) is heads


def test_tiles_are_unknown_before_a_run():
    q, k, v = torch.randn(3, 1, 2, 256, 64)
    with torch.no_grad():
        options = {"target": "evaluate", "fx_graph_cache": False}
        torch.compile(attention, backend="flashlight", options=options)(q, k, v, torch.tensor([20]))
    (report,) = registry.reports()
    kernel = report.regions[0].kernels[-1]
    assert (kernel.tiles_visited, kernel.tiles_total) == (None, 2 * 4 * 4)
    assert not re.search(r"\d of \d", str(report))


def test_compiling_prints_no_kernel(monkeypatch, tmp_path):
    """Text, source and Triton form are made when they are read, once."""
    printed = []

    def printing(kernel, *rest):
        printed.append(kernel.name)
        return print_kernel(kernel, *rest)

    monkeypatch.setattr("flashlight.codegen.triton.print_kernel", printing)
    monkeypatch.setattr("flashlight.ir.text.kernel_text", lambda kernel: printed.append(kernel.name) or "TEXT")
    monkeypatch.setattr("flashlight.ir.text.program_text", lambda program: printed.append("program") or "TEXT")
    compiled = compile_only(attention, str(tmp_path), target="evaluate")
    compiled(*torch.randn(3, 1, 2, 256, 64), torch.tensor([20]))
    (region,) = compiled.report.regions
    assert region.fused and not printed
    assert str(compiled.report) and not printed, "a table of regions needs no text of kernels"
    kernel = region.kernels[-1]
    assert kernel.triton is kernel.triton and printed == [kernel.name]
    assert (kernel.program, kernel.kernel) == ("TEXT", "TEXT") and "program" in printed


ON_A_CPU = """
import sys, torch, flashlight
q = torch.randn(1, 1, 64, 16)
text = str(flashlight.explain(lambda q: (q @ q.mT).softmax(-1) @ q, q))
assert "1 fused" in text, text
late = [m for m in sys.modules if m.startswith(("flashlight.codegen.triton", "flashlight.codegen.offline"))]
assert not late, late
"""


def test_a_report_on_a_cpu_imports_no_printer_of_triton(tmp_path):
    """Nor does anything that compiling and running on a CPU does."""
    caches = {"FLASHLIGHT_CACHE_DIR": str(tmp_path / "ours"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    subprocess.run([sys.executable, "-c", ON_A_CPU], env={**os.environ, **caches}, check=True)


def test_equal_layers_are_planned_and_kept_once(monkeypatch, tmp_path):
    """What each layer of a model costs besides is finding it and putting the op in its place."""
    planned, kept = [], []
    compile_program, keep = planning.compile_program, runtime._keep
    monkeypatch.setattr(planning, "compile_program", lambda p, n: planned.append(p) or compile_program(p, n))
    monkeypatch.setattr(runtime, "_keep", lambda plan, cache: kept.append(plan.key) or keep(plan, cache))

    def layers(x):
        for _ in range(4):
            x = x + (x @ x.mT).softmax(-1) @ x
        return x

    compiled = compile_only(layers, str(tmp_path), target="evaluate")
    compiled(torch.randn(1, 1, 64, 16))
    assert compiled.report.fused == 4 and len(planned) == len(kept) == 1


def test_reports_are_copied_and_pickled_as_plain_data():
    with torch.no_grad():
        report = flashlight.explain(attention, *torch.randn(3, 1, 2, 256, 64), torch.tensor([20]))
    for again in (pickle.loads(pickle.dumps(report)), copy.deepcopy(report)):
        assert again == report and again.regions[0].compilation is None


def test_the_cache_keeps_what_reports_are_made_from(tmp_path):
    compiled = compile_only(attention, str(tmp_path), target="evaluate")
    compiled(*torch.randn(3, 1, 2, 256, 64), torch.tensor([20]))
    report = compiled.report
    report.regions.append(RegionReport(False, "top-k", "model.py:40", fix="threshold instead"))
    document = json.loads(json.dumps(report_to_document(report)))
    assert report_from_document(document) == report
    assert report_to_document(report_from_document(document)) == document
    cpp = report_from_document(document, language={"evaluate": "cpp"}.__getitem__).regions[0]
    assert {k.language for k in cpp.kernels} == {"cpp"}, "another process has a compiler"
    document["regions"][0]["compilation"] = "spoilt"
    spoilt = report_from_document(document).regions[0]
    assert (spoilt.fused, spoilt.source, spoilt.kernels, spoilt.passes) == (True, report.regions[0].source, [], [])


def test_a_module_of_pytorchs_has_the_line_of_its_caller():
    module, x = torch.nn.MultiheadAttention(16, 2, batch_first=True).eval(), torch.randn(1, 20, 16)
    with torch.no_grad():
        report = flashlight.explain(module, x, x, x)
    caller = test_a_module_of_pytorchs_has_the_line_of_its_caller.__code__.co_firstlineno + 3
    parts = [*report.regions, *report.score_sized]
    assert {part.source for part in parts} == {f"test_report.py:{caller}"}


def test_explain_with_options():
    def plain(q, k, v):
        return (q @ k.mT).softmax(-1) @ v

    inputs = torch.randn(3, 1, 2, 20, 16).unbind()
    with torch.no_grad():
        report = flashlight.explain(plain, *inputs, options={"target": "evaluate"})
    assert [k.language for k in report.regions[0].kernels] == ["evaluate"]
    with pytest.raises(TypeError, match=r"'target'; for an option .*options=\{'target': 'cpp'\}"):
        flashlight.explain(plain, *inputs, target="cpp")
    with pytest.raises(TypeError, match="takes a function or a module and its arguments, not 3 as the first"):
        flashlight.explain(3, *inputs)  # type: ignore[arg-type]


def test_threads_read_one_list_of_kernels():
    made = []

    def make():
        made.append(kernel())
        return list(made)

    region = RegionReport(True, kernels=Later(make))
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(region.kernels)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and all(kernels is seen[0] for kernels in seen)


def test_registry():
    first, second = sample(), Report()
    registry.record(first)
    registry.record(second)
    assert registry.reports() == [first, second]
    registry.reports().clear()
    assert len(registry.reports()) == 2
    registry.reset()
    assert registry.reports() == []


def test_registry_from_threads():
    threads = [threading.Thread(target=lambda: [registry.record(Report()) for _ in range(200)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(registry.reports()) == 1600
