"""Divergences of vector fields: Hutchinson's estimate, perceptrons and OT-Flow's potential."""
