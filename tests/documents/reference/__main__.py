"""`python -m tests.documents.reference`: write docs/reference/ (`make docs`)."""

from tests.documents.reference import write

write()
