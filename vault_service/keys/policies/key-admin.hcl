# What a key administrator may do beside a person's own rights: make wrapping keys, and new keys in wrapped form.
# Nothing here shows a key or opens a wrapped one.

# Make, look at and rotate wrapping keys. "+" is one whole part of a path, so that nothing below a key's name is reached
# but what is named here: not config, import, trim or soft-delete, nor what a later Vault adds. "+" reaches every key of
# the engine: setup refuses an engine that holds other people's keys.
path "transit/keys/+" {
  capabilities = ["create", "update", "read"]
  allowed_parameters = {
    "type"                   = ["aes256-gcm96"] # nothing else wraps
    "derived"                = [true]           # the key's name is part of every wrap
    "exportable"             = [false]          # it never leaves Vault
    "allow_plaintext_backup" = [false]          # nor inside a backup
  }
}
path "transit/keys/+/rotate" {
  capabilities = ["update"]
}

# People's signing keys are made when a person is entered: an admin who could replace one could sign as that person.
path "transit/keys/ssn-vault-person-*" {
  capabilities = ["deny"]
}

# The audit log's signing key, and everything below it.
path "transit/keys/ssn-vault-audit" {
  capabilities = ["deny"]
}
path "transit/keys/ssn-vault-audit/*" {
  capabilities = ["deny"]
}

# A new data key or index key that only the server will ever see in the clear.
path "transit/datakey/wrapped/ssn-vault-*" {
  capabilities = ["update"]
}

# The same wrapped key under the newest version of its wrapping key; it is not shown on the way.
path "transit/rewrap/ssn-vault-*" {
  capabilities = ["update"]
}

# The same key in the clear: never.
path "transit/datakey/plaintext/*" {
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
