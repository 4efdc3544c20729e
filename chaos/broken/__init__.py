"""Builds that lack a guarantee: each module takes one away from the worker that loads it (FLOW_MODULES).

The harness has to see every one of them, or its zeros would mean nothing.
"""
