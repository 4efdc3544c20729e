"""Providers on this machine, for every test that asks for them."""

from main.tests.providers import gemini, tavily

__all__ = ["gemini", "tavily"]
