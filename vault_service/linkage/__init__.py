"""Linkage: encoded traits, and the rules that say when two records are one person."""
