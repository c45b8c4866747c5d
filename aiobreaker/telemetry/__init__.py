"""What operators see: logs, metrics, traces. One file for each, named after its library, and an extra of the same name.

Law: everything is read when it is asked for, or told at a transition; nothing is added to a call that passes.
"""
