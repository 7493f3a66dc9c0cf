"""Understand what other hosts say, and explain what this one says; decisions about mail are made elsewhere."""
