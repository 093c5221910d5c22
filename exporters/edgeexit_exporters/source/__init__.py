"""Export sources: ONNX files and torch modules, brought to one all-exits ONNX graph."""
