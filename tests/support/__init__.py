"""What the tests share: a real stack under test, and PostgreSQL from a wheel."""
