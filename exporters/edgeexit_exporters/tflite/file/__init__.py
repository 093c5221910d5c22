""".tflite files: parsing, checks, signatures, surgery, memory plan."""
