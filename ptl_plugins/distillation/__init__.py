"""Distillation as recovery: a frozen teacher beside the model, a loss that is partly a divergence.

`teacher_check` imports no torch; `head`, `loss` and `teacher` compute.
"""
