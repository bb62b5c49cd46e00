"""Governance: what people ask of the record: who was given what, how often, and whom to notify."""
