"""Unit tests of the keys room."""
