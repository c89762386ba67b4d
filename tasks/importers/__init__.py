"""Results that were made elsewhere, as rows of ours."""
