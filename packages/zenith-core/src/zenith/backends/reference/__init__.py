"""The reference backend: the meaning of every standard operator, from `onnx.reference`."""
