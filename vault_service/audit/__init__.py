"""Audit: events, their disclosure rows, the recorder, and the log stream that leaves the database's reach."""
