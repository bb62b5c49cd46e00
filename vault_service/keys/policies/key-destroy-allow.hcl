# The first half of destroying a key version: allow its wrapping key to be deleted. The second half, deleting it, is
# another person's (key-destroy-delete.hcl). Whoever held both could destroy data alone; setup refuses that.

# Of a key's settings this one, and only in this direction. A request that does not name it is refused.
path "transit/keys/+/config" {
  capabilities        = ["update"]
  required_parameters = ["deletion_allowed"]
  allowed_parameters = {
    "deletion_allowed" = [true]
  }
}

# Look at the key that is to go.
path "transit/keys/+" {
  capabilities = ["read"]
}

# People's signing keys and the audit log's stay: without their public halves old orders and checkpoints prove nothing.
path "transit/keys/ssn-vault-person-*" {
  capabilities = ["deny"]
}
path "transit/keys/ssn-vault-audit" {
  capabilities = ["deny"]
}
path "transit/keys/ssn-vault-audit/*" {
  capabilities = ["deny"]
}
