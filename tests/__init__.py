"""The tests: each mirrors the source it holds to its promises."""
