"""The demo: a real HTTP service that goes down in the ways that real services do, and a breaker in front of it.

It uses the library as everybody does; the rest of the library never imports it. Its packages are the extra `aiobreaker[demo]`.
"""
