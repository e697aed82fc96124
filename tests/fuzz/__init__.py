"""A fuzzer of whole attention-like programs: seeds become plain PyTorch, judged against float64 eager.

program.py   what a program is: sizes, inputs, steps, outputs; it prints itself as a standalone script
draw.py      random choices; data.py: contents and layouts of inputs
builder.py   values with named dimensions and rough ranges
grammar/     producers, scores, masks, edits, normalisers, values, outputs, and how they are put together
modes.py     what tells bad luck from a fault: comparisons that hang on a rounding, errors of any evaluation
judge.py     a verdict on one program; gears.py: how it is compiled
training.py  training steps: gradients are judged as outputs are
shrink.py    the smallest program with the same fault
runner.py    worker processes with time limits; __main__.py: the command line
corpus/      programs that once failed
"""
