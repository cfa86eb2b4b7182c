"""Everything that touches the world: it acts, asks and answers, and decides nothing."""
