"""Unit tests of the policy room."""
