"""Identity: from a certificate to a client, from a signed token to a person."""
