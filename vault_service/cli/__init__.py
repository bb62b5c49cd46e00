"""The command line, one noun a file; everything an admin or auditor does."""
