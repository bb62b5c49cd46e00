# What an approver may do beside a person's own rights: look at the public keys that prove who asked for what. Approving
# is signing the same order with one's own key, which person.hcl allows.

# Whoever makes or destroys keys too is denied this: those policies shut people's keys off, and a denial wins.
path "transit/keys/ssn-vault-person-*" {
  capabilities = ["read"]
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
