"""Attention-like regions of a joint graph."""

from flashlight.regions.assemble import Refusal, Region, source_of
from flashlight.regions.find import Found, find_regions

__all__ = ["Found", "Refusal", "Region", "find_regions", "source_of"]
