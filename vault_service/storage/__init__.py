"""Storage: the tables, the engine, the one kind of transaction, one repository a table, and migrations."""
