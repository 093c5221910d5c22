"""torch modules to stages that litert-torch converts."""
