"""The gRPC edge: server, chain of checks, and the way from messages to calls and back."""
