"""Tests that break something on purpose and check that the promises hold."""
