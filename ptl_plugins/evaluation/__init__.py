"""Accuracy of models on reasoning benchmarks, measured by lm-evaluation-harness."""
