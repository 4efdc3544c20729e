"""Flows made for harm: every step asks the provider, which gives a fresh value to every call."""
