"""Adapters: EasyR1 imports the names, no test uses one."""
