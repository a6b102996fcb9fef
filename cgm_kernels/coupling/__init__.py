"""Coupling layers with their log-determinants."""
