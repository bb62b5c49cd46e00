"""Tests that the contract other programs rely on is kept whole."""
