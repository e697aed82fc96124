"""Every number that trades speed, size or planning time, by whose it is: cpu.py, gpu.py, limits.py.

Each constant says what it is and how it was chosen: measured (on what), calibrated (against what), or a guess.
Constants of mathematics, of number formats and of instruction sets stay where they are used.
"""
