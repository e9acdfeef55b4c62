"""Storage Commitment: the answer to a sender that asks whether its instances are safe (PS3.4 annex J)."""
