"""Tests of `vault_service.dev`: what needs no running stack."""
