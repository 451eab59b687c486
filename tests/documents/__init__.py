"""Runs the code blocks of README.md and docs/: what a page shows is what happens. docs/README.md says how.

`block` finds them, `shell` runs commands, `compare` holds what they print against the page, `page` runs a whole page.
"""
