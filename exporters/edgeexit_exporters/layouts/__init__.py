"""Layouts: stages to ONNX files, compared with the source model."""
