"""Tests on real parts: OpenBao, SQLite, PostgreSQL, and the wire."""
