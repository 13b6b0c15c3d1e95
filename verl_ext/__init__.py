"""Recovery by GRPO in verl and EasyR1 (not part of this release)."""
