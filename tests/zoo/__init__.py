"""The Must-fuse list as data: every attention program, in every spelling people write.

    from tests.zoo import ZOO, Size
    for variant in ZOO:
        outputs = variant.fn(*variant.make(Size(), torch.float32, 0))

`tests.zoo.declines` holds what must decline or pass through, `tests.zoo.models` whole models.
"""

from tests.zoo import (
    row1_softmax,
    row2_masks,
    row3_scores,
    row4_shapes,
    row5_normalisers,
    row6_several_maps,
    row7_products,
    row8_unnormalised,
    row9_dropout,
)
from tests.zoo.variant import FLOATS, Size, Variant

_ROWS = (
    row1_softmax,
    row2_masks,
    row3_scores,
    row4_shapes,
    row5_normalisers,
    row6_several_maps,
    row7_products,
    row8_unnormalised,
    row9_dropout,
)

ZOO: tuple[Variant, ...] = tuple(variant for row in _ROWS for variant in row.ROW.variants)


def spellings(name: str) -> tuple[Variant, ...]:
    """All spellings of one program, the reference one first."""
    return tuple(variant for variant in ZOO if variant.name == name)


__all__ = ["FLOATS", "ZOO", "Size", "Variant", "spellings"]
