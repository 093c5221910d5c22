"""Pictures as network inputs: declared preprocessing, conversion, resizing."""
