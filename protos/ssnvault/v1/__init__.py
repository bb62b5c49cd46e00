"""Version 1 of the contract: messages in ``ssn_vault_pb2``, stubs and servicer in ``ssn_vault_pb2_grpc``.

Generated from ``ssn_vault.proto`` by ``make proto``; nothing here is edited by hand.
"""
