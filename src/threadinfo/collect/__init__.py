"""Puts a report together from what /proc says and what a trace saw."""
