# Beside server.hcl, where the server logs in to PostgreSQL through Vault: fetch its own short-lived login, and make it
# live on. It cannot look at the connection behind it, nor at any other role.

path "database/creds/ssn-vault-server" {
  capabilities = ["read"]
}

# A lease is renewed by its id, which only its holder knows.
path "sys/leases/renew" {
  capabilities = ["update"]
}
