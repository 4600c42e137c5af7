"""Pixels to vectors: pretrained networks, converted once, run by OpenVINO or by torch."""
