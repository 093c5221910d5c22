"""int8: the whole ONNX network is quantised first and cut into stages after."""
