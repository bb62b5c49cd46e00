# May renew the server's certificate and nothing else: for the timer on the server's machine. It cannot make a client's.

# Only what is needed to ask: Vault takes "not_after" past the role's longest life, and whatever a later Vault adds is
# refused as well. A list of what may be sent stays right where one of what may not would not.
path "pki/sign/ssn-vault-server" {
  capabilities       = ["update"]
  allowed_parameters = {
    "csr"       = []
    "ttl"       = [] # the role cuts it to its longest life
    "alt_names" = [] # the role says which
    "ip_sans"   = []
  }
}

# Tell an ended login from a call that is not allowed.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
