"""Recorded exit outputs: what policies are chosen and measured on."""
