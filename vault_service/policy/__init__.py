"""Policy: who may do what, for which purpose; the file, its checks, and pure decisions."""
