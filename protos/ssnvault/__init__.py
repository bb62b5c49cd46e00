"""The contract of ssn-vault as Python code; everything of one version stands in its own subpackage."""
