"""b3db: molecules that pass the blood-brain barrier, and others."""
