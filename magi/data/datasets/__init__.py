"""Which videos a data set has: trees as they are distributed, and an index of them. Opens no video."""
