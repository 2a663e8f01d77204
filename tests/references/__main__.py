"""Writes the table of references into tests/README.md: python -m tests.references"""

from tests.references import README, readme_with_table

README.write_text(readme_with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
