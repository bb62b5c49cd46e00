"""Operations: the three flows, one a file, and the transaction that runs them together."""
