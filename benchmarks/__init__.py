"""Measurements of speed and memory; they write outputs/bench/, and no test depends on them."""
