"""What the compiler makes of a few programs, stage by stage, as text to read and to compare with.

tests/golden/causal.py                  the user's code
tests/golden/causal/1_lowered.txt ...   what each stage makes of it
python -m tests.golden                  writes them anew, and the texts that ARCHITECTURE.md shows
"""
