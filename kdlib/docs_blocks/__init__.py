"""Blocks of the pages in docs/, made from measurements; a module a page."""
