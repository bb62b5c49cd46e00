"""The development stack: the service on one machine with real parts and sample data. Never for production."""
