"""ONNX graphs: files, surgery, names, serialisation, measurement."""
