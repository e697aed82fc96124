"""The corpus: small programs that once failed, each a script with `inputs(seed)`, `fn`, DTYPE and perhaps

GEARS = ("evaluate", "native")     what it must be right in; evaluate alone unless it says more
OUTCOME = "declined"               what the report must say; "fused" unless it says more
TRAIN = True                       whether gradients are judged too
LIMIT_S = 20.0                     processor time that compiling and the first call may take
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.judge import Fault, Verdict, judge
from tests.fuzz.program import Case, load

FOLDER = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Entry:
    """A program of the corpus in one gear."""

    name: str
    gear: str
    case: Case

    def replay(self, folder: str) -> Verdict:
        """Its verdict; another outcome than expected is a fault."""
        verdict = judge(self.case, self.gear, folder, self.case.facts.get("LIMIT_S", 30.0))
        expected = self.case.facts.get("OUTCOME", "fused")
        if verdict.outcome.partition(",")[0] != expected:
            verdict.faults.append(Fault("outcome", f"{verdict.outcome} instead of {expected}: {verdict.declined}"))
        return verdict


def entries() -> list[Entry]:
    """Every program in every gear it names."""
    found = []
    for path in sorted(FOLDER.glob("*.py")):
        case = load(path.read_text(), path.name)
        found += [Entry(path.stem, gear, case) for gear in case.facts.get("GEARS", ("evaluate",))]
    return found
