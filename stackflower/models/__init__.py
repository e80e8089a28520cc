"""Trained models outside of runs: model folders, shipped models, the Hugging Face Hub, ONNX and web pages."""
