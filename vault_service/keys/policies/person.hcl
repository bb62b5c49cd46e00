# A named person's login. It signs that person's orders and proves who the person is; it reads no key.

# Sign with one's own key only: the entity's name stands in the path, and only an administrator of Vault sets it.
path "transit/sign/ssn-vault-person-{{identity.entity.name}}" {
  capabilities = ["update"]
}

# The signed token that names the person to the service.
path "identity/oidc/token/ssn-vault" {
  capabilities = ["read"]
}

# One's own entity: the command needs the name that stands on the order.
path "identity/entity/id/{{identity.entity.id}}" {
  capabilities = ["read"]
}

# Which entity this login belongs to.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

# Keep the login alive up to its longest life.
path "auth/token/renew-self" {
  capabilities = ["update"]
}

# Whoever may hash values with the audit device's key can test which number stands in Vault's own log.
path "sys/audit-hash/*" {
  capabilities = ["deny"]
}
