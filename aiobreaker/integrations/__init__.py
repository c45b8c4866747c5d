"""Clients and servers that guards are plugged into: one file for each, named after it, and an extra of the same name.

Law: a library is imported by the file that bears its name and by no other; siblings do not know one another.
"""
