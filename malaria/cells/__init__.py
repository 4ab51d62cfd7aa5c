"""From files to arrays: cells read, audited, split and packed."""
