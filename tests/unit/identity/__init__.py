"""Unit tests of the identity room."""
