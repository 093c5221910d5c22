"""Torch modules as stages that litert-torch converts."""
