"""One migration a file, never changed after a release."""
