"""Measurements of the vault against others, on histories that scripts/histories made."""
