# The second half of destroying a key version: delete its wrapping key. Vault refuses until somebody else has allowed it
# (key-destroy-allow.hcl). Whoever held both could destroy data alone; setup refuses that.

# "+" is one whole part of a path: with "*" this right would reach what stands below a key's name as well, among it
# OpenBao's soft-delete, which needs nobody else's leave and takes the key out of service.
path "transit/keys/+" {
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
