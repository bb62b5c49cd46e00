# The first half of destroying a key version: allow its wrapping key to be deleted. The second half, deleting it, is
# another person's (key-destroy-delete.hcl). Whoever held both could destroy data alone; setup refuses that.

# The same path as in key-admin.hcl, so that Vault joins the two lists of parameters.
path "transit/keys/ssn-vault-*" {
  capabilities = ["update", "read"]
  allowed_parameters = {
    "deletion_allowed" = [true]
  }
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
