# May issue certificates of the server and of every client. Whoever holds this can make a certificate for any client and
# then call as that client: it is for the people who enter clients, not for a machine that renews its own certificate
# (server-certificate.hcl). The private key never reaches Vault: only a signing request does ("sign", not "issue").

path "pki/sign/ssn-vault-server" {
  capabilities = ["update"]
}

path "pki/sign/ssn-vault-client" {
  capabilities = ["update"]
}
