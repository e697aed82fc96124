"""The Must-fuse list as data: every attention program, in every spelling people write.

    from tests.zoo import ZOO, Size
    for variant in ZOO:
        outputs = variant.fn(*variant.make(Size(), torch.float32, 0))

`STAGES` are programs of regions in stages, forward only and not all of them fused yet, see `tests.zoo.status`.
`tests.zoo.declines` holds what must decline or pass through, `tests.zoo.models` whole models.
"""

from tests.zoo import (
    feedback,
    nested,
    not_attention,
    producers,
    products_of_maps,
    projections,
    recut,
    reduced,
    reused,
    row1_softmax,
    row2_masks,
    row3_scores,
    row4_shapes,
    row5_normalisers,
    row6_several_maps,
    row7_products,
    row8_unnormalised,
    row9_dropout,
    selected,
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

_KINDS = (
    reduced,
    selected,
    feedback,
    reused,
    producers,
    projections,
    recut,
    products_of_maps,
    not_attention,
    nested,
)

STAGES: tuple[Variant, ...] = tuple(variant for kind in _KINDS for variant in kind.KIND.variants)
"""Programs by kind of region, one spelling each: big values that hang together, and only small ones between stages."""


def spellings(name: str) -> tuple[Variant, ...]:
    """All spellings of one program, the reference one first."""
    return tuple(variant for variant in ZOO if variant.name == name)


__all__ = ["FLOATS", "STAGES", "ZOO", "Size", "Variant", "spellings"]
