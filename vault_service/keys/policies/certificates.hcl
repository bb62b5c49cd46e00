# May issue certificates of the server and of every client. Whoever holds this can make a certificate for any client and
# then call as that client: it is for the people who enter clients, not for a machine that renews its own certificate
# (server-certificate.hcl). The private key never reaches Vault: only a signing request does ("sign", not "issue").

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

path "pki/sign/ssn-vault-client" {
  capabilities       = ["update"]
  allowed_parameters = {
    "csr"      = []
    "ttl"      = [] # the role cuts it to its longest life
    "uri_sans" = [] # the role says which
  }
}
