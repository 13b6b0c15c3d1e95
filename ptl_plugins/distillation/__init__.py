"""Distillation as recovery: a frozen teacher beside the model, a loss that is partly a divergence.

`spec` and `teacher_check` import no torch; `loss` and `teacher` compute.
"""
