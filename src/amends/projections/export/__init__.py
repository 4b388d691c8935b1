"""Tables of projections as files: CSV, JSON Lines, Parquet."""
