"""Tests of `ssn_vault_client`; where a wire is needed, it is a real one on this machine, with mutual TLS."""
