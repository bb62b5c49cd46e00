"""Unit tests of the audit room."""
