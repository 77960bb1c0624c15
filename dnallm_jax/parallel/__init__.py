"""Devices and hosts: the mesh with its one axis table, and the start of a (multi-host) program."""
