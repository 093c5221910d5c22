"""int8: the whole ONNX network is quantized first and cut into stages after."""
