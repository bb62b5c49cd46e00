# May renew the server's certificate and nothing else: for the timer on the server's machine. It cannot make a client's.

path "pki/sign/ssn-vault-server" {
  capabilities = ["update"]
}

# Tell an ended login from a call that is not allowed.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
