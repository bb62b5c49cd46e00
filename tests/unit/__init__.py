"""Tests of one module at a time; no servers, no network."""
