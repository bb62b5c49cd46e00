# The second half of destroying a key version: delete its wrapping key. Vault refuses until somebody else has allowed it
# (key-destroy-allow.hcl). Whoever held both could destroy data alone; setup refuses that.

path "transit/keys/ssn-vault-*" {
  capabilities = ["delete", "read"]
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
