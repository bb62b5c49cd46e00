"""Orders: what people sign, how it is verified, and the state that is the fold of those in force."""
