"""Unit tests of the governance room."""
