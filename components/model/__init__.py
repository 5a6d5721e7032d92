"""Networks: how images become inputs, how a network is trained, calibrated, written as ONNX and run."""
