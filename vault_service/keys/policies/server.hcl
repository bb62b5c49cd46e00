# The server's login. It unwraps keys and signs checkpoints; it cannot make, change, export or destroy a key.

# Unwrap data keys and index keys. "update", never "create": with "create" Vault makes a missing key by itself.
path "transit/decrypt/ssn-vault-*" {
  capabilities = ["update"]
}

# Sign checkpoints of the audit log with the server's own key; orders are signed by people, never by the server.
path "transit/sign/ssn-vault-audit" {
  capabilities = ["update"]
}

# Public keys of the people whose signed orders it checks.
path "transit/keys/ssn-vault-person-*" {
  capabilities = ["read"]
}

# Public key of the audit log.
path "transit/keys/ssn-vault-audit" {
  capabilities = ["read"]
}

# Keep the login alive.
path "auth/token/renew-self" {
  capabilities = ["update"]
}

# Ask when the server's own secret id ends, so that somebody can be told in time. It takes a secret id that one has.
path "auth/approle/role/ssn-vault-server/secret-id/lookup" {
  capabilities = ["update"]
}

# Tell an ended login from a call that is not allowed.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

# Whoever may hash values with the audit device's key can test which number stands in Vault's own log.
path "sys/audit-hash/*" {
  capabilities = ["deny"]
}
