"""The grammar of attention-like programs; `grammar.skeletons.program` is the entry."""
