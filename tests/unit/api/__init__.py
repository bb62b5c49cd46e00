"""Unit tests of the api room."""
