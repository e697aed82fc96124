"""Reports: counts, text, JSON and the process-wide registry."""

import json
import threading

import pytest

from flashlight import report as registry
from flashlight.report import KernelReport, RegionReport, Report


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
        True, None, "model.py:12", "attention0", [kernel()], None, [("hoist", "text"), ("stream", "x")]
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


def test_text_of_unknown_tiles_and_of_nothing():
    region = RegionReport(True, source="a.py:1", name="r", kernels=[kernel(tiles_visited=None)])
    assert " of " not in str(Report([region]))
    assert "nothing in this graph looks like attention" in str(Report())


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
