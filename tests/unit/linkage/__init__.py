"""Unit tests of the linkage room."""
