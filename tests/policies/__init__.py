"""Tests of the policies, one file each."""
