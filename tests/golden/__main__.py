"""Write every text anew: `python -m tests.golden`."""

from __future__ import annotations

import tempfile

from tests.golden.stages import ARCHITECTURE, FOLDER, NAMES, stages, written

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            (FOLDER / name).mkdir(exist_ok=True)
            for file, text in stages(name, folder).items():
                (FOLDER / name / file).write_text(text)
    ARCHITECTURE.write_text(written(ARCHITECTURE.read_text()))
