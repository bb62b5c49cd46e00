# What an auditor may do beside a person's own rights: fetch the public keys that prove the record and the orders. Nothing
# here signs, opens or changes anything; an auditor's own signature comes from person.hcl.

# Public key of the audit log: its checkpoints are checked against this, never against a key in the database.
path "transit/keys/ssn-vault-audit" {
  capabilities = ["read"]
}

# Public keys of the people whose signatures stand under orders.
path "transit/keys/ssn-vault-person-*" {
  capabilities = ["read"]
}

# Who checks the log must not be able to make one.
path "transit/sign/ssn-vault-audit" {
  capabilities = ["deny"]
}
path "transit/sign/ssn-vault-audit/*" {
  capabilities = ["deny"]
}

# Opening wrapped keys is the server's alone, whatever other policy the same person holds.
path "transit/decrypt/*" {
  capabilities = ["deny"]
}

# Keys leave Vault neither raw nor as a backup.
path "transit/export/*" {
  capabilities = ["deny"]
}
path "transit/backup/*" {
  capabilities = ["deny"]
}

# Whoever may hash values with the audit device's key can test which number stands in Vault's own log.
path "sys/audit-hash/*" {
  capabilities = ["deny"]
}
