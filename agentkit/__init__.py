"""Measure an agent, distil it into a small local model, compare honestly."""
__version__ = "0.1.0"
