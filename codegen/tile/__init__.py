"""The tiled form: what one program of a kernel does, block by block, with nothing left to derive.

    tiled = tile_program(kernel)      Kernel -> TileProgram: folds, phases, what a block may leave out
    str(tiled)                        the text
    evaluate(tiled, tensors, outputs) the meaning, in torch: the reference for every printer

A printer adds syntax and layout; it derives no carry, guard, phase or bound of its own.
"""

from flashlight.codegen.tile.build import tile_program, unlined
from flashlight.codegen.tile.evaluate import Walk, evaluate, evaluate_kernel
from flashlight.codegen.tile.form import Fold, Loop, Phase, TileProgram

__all__ = ["Fold", "Loop", "Phase", "TileProgram", "Walk", "evaluate", "evaluate_kernel", "tile_program", "unlined"]
