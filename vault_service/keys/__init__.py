"""The key room: what wraps, unwraps, holds and rotates the keys that protect the numbers."""
