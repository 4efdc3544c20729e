"""Flows that do nothing but take their time, so that what is measured is the platform."""
