"""Attention-like regions of a joint graph."""

from flashlight.front.regions.assemble import Refusal, Region, source_of
from flashlight.front.regions.find import Findings, find_regions
from flashlight.front.regions.smaller import join_by_join, without_map_products, without_producers

__all__ = [
    "Findings",
    "Refusal",
    "Region",
    "find_regions",
    "join_by_join",
    "source_of",
    "without_map_products",
    "without_producers",
]
