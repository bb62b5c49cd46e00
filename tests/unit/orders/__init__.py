"""Unit tests of the orders room."""
