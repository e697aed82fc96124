"""Attention-like regions of a joint graph."""

from flashlight.regions.find import Found, Refusal, Region, find_regions

__all__ = ["Found", "Refusal", "Region", "find_regions"]
